package cluster

import (
	"context"
	"log"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// follow reconciles after every change of what is watched, until it cannot watch.
func follow(
	ctx context.Context, informed informers.SharedInformerFactory, reconcile func(context.Context) error,
	watched ...cache.SharedIndexInformer,
) error {
	// One token while there is something to look at.
	changed := make(chan struct{}, 1)
	wake := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for _, informer := range watched {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { wake() },
			UpdateFunc: func(any, any) { wake() },
			DeleteFunc: func(any) { wake() },
		}); err != nil {
			return err
		}
	}
	informed.Start(ctx.Done())
	informed.WaitForCacheSync(ctx.Done())
	for range changed {
		if err := reconcile(ctx); err != nil {
			log.Printf("%v; trying again", err)
			time.AfterFunc(time.Second, wake)
		}
	}
	return nil
}
