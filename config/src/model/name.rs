//! Names of resources. A name is identity: running state is kept by it across configurations.

use std::{borrow::Borrow, fmt, sync::Arc};

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            #[must_use]
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The shared text, for places that keep a name without its type.
            #[must_use]
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    )*};
}

names! {
    /// A bound address: `0.0.0.0_8080`.
    ListenerName;
    /// One choice a listener has for a connection: `https.443.https.bookinfo-gateway.default`.
    FilterChainName;
    /// A set of virtual hosts HTTP connections share: `http.8080`, `https.443.https.gateway.default`.
    RouteTableName;
    /// A host of one route table: `http.8080|reviews.example.com`.
    VirtualHostName;
    /// What the access log prints as `ROUTE_NAME`; not unique.
    RouteName;
    /// `outbound|9080|v1|reviews.default.svc.cluster.local`.
    ClusterName;
    /// `kubernetes://namespace/name` or `file-cert:CERT~KEY` / `file-root:PATH`.
    SecretName;
}

impl SecretName {
    /// The proxy's own certificate in the mesh, with the mesh's roots. Not configured: the proxy has
    /// it from its authority. Named as Istio's proxies name it.
    #[must_use]
    pub fn workload() -> Self {
        Self::new("default")
    }
}
