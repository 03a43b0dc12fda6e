{{/*
The kinds that Weir reads, as Istio names, groups and versions them. A test compares this table with what
the configuration crate reads.

Every version has the same schema: none. What a field may be is checked by the controller's webhook, with
the code that uses the field, and says more than a schema could.
*/}}
{{- define "base.kinds" -}}
- group: networking.istio.io
  kind: Gateway
  plural: gateways
  shortNames: [gw]
  versions: [v1, v1beta1, v1alpha3]
- group: networking.istio.io
  kind: VirtualService
  plural: virtualservices
  shortNames: [vs]
  versions: [v1, v1beta1, v1alpha3]
  columns:
    - {name: Gateways, jsonPath: .spec.gateways, description: The gateways that use these routes}
    - {name: Hosts, jsonPath: .spec.hosts, description: The hosts that the routes are for}
- group: networking.istio.io
  kind: DestinationRule
  plural: destinationrules
  shortNames: [dr]
  versions: [v1, v1beta1, v1alpha3]
  columns:
    - {name: Host, jsonPath: .spec.host, description: The service the rule is for}
- group: networking.istio.io
  kind: ServiceEntry
  plural: serviceentries
  shortNames: [se]
  versions: [v1, v1beta1, v1alpha3]
  columns:
    - {name: Hosts, jsonPath: .spec.hosts, description: The names of the service}
    - {name: Location, jsonPath: .spec.location, description: Whether it is inside the mesh}
    - {name: Resolution, jsonPath: .spec.resolution, description: How its addresses are found}
- group: networking.istio.io
  kind: WorkloadEntry
  plural: workloadentries
  shortNames: [we]
  versions: [v1, v1beta1, v1alpha3]
  columns:
    - {name: Address, jsonPath: .spec.address, description: Where it is reached}
- group: networking.istio.io
  kind: EnvoyFilter
  plural: envoyfilters
  versions: [v1alpha3]
- group: security.istio.io
  kind: AuthorizationPolicy
  plural: authorizationpolicies
  shortNames: [ap]
  versions: [v1, v1beta1]
  columns:
    - {name: Action, jsonPath: .spec.action, description: What is done with requests that match}
- group: security.istio.io
  kind: RequestAuthentication
  plural: requestauthentications
  shortNames: [ra]
  versions: [v1, v1beta1]
{{- end }}
