//! Manifests of the test application.

/// The image that `Cluster::load_app` makes.
pub const IMAGE: &str = "weir.test/app:dev";

/// The port of its Services.
pub const PORT: u16 = 80;

/// A Deployment `{name}-{version}`, and the Service `{name}` of all its versions.
///
/// It runs as Pod Security's `restricted` wants it, and answers HTTP/1.1, HTTP/2 and gRPC.
#[must_use]
pub fn manifest(name: &str, version: &str, replicas: u32) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec:
  selector: {{ app: {name} }}
  ports: [{{ name: http, port: {PORT}, targetPort: http }}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name}-{version} }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: {name}, version: {version} }} }}
  strategy: {{ rollingUpdate: {{ maxUnavailable: 0, maxSurge: 1 }} }}
  template:
    metadata: {{ labels: {{ app: {name}, version: {version} }} }}
    spec:
      securityContext:
        runAsNonRoot: true
        seccompProfile: {{ type: RuntimeDefault }}
      containers:
        - name: app
          image: {IMAGE}
          imagePullPolicy: Never
          env:
            - {{ name: VERSION, value: "{version}" }}
            - {{ name: POD_NAME, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}
          ports: [{{ name: http, containerPort: 8080 }}]
          readinessProbe: {{ httpGet: {{ path: /, port: http }}, periodSeconds: 1, timeoutSeconds: 5 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{ drop: [ALL] }}
"#
    )
}
