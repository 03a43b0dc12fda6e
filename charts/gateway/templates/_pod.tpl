{{/* The pod of the Deployment or DaemonSet. */}}
{{- define "gateway.pod" -}}
metadata:
  labels: {{- include "gateway.labels" . | nindent 4 }}
  annotations:
    {{- $scraped := dict "prometheus.io/scrape" "true" "prometheus.io/port" "15020" "prometheus.io/path" "/stats/prometheus" }}
    {{- toYaml (merge (deepCopy .Values.podAnnotations) $scraped) | nindent 4 }}
spec:
  serviceAccountName: {{ include "gateway.serviceAccountName" . }}
  # The controller knows it by another token; the API server is none of its business.
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- if .Values.securityContext }}
    {{- toYaml .Values.securityContext | nindent 4 }}
    {{- else }}
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile: {type: RuntimeDefault}
    # Ports below 1024 without a capability.
    sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]
    {{- end }}
  {{- with .Values.initContainers }}
  initContainers: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: istio-proxy
      image: {{ .Values.hub }}/{{ .Values.image }}:{{ .Values.tag | default .Chart.AppVersion }}
      {{- with .Values.imagePullPolicy }}
      imagePullPolicy: {{ . }}
      {{- end }}
      args:
        - --discovery={{ include "gateway.discovery" . }}
        {{- with .Values.caAddress }}
        - --ca={{ . }}
        {{- end }}
        - --state-dir=/var/lib/weir
        - --status=0.0.0.0:15021
        - --metrics=0.0.0.0:15020,0.0.0.0:15090
        - --drain-time={{ .Values.drainTime }}
        - --log-level={{ .Values.logLevel }}
        - --log-format={{ ternary "json" "text" .Values.logAsJson }}
        {{- with .Values.workers }}
        - --workers={{ . }}
        {{- end }}
        {{- range .Values.extraArgs }}
        - {{ . | quote }}
        {{- end }}
      env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: POD_NAMESPACE
          valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
        - name: INSTANCE_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        - name: SERVICE_ACCOUNT
          valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}
        - name: TRUST_DOMAIN
          value: {{ .Values.global.trustDomain }}
        - name: ISTIO_META_CLUSTER_ID
          value: {{ .Values.global.multiCluster.clusterName }}
        {{- range $name, $value := .Values.env }}
        - name: {{ $name }}
          value: {{ $value | quote }}
        {{- end }}
        {{- with .Values.envVarFrom }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: status, containerPort: 15021}
        # Where Istio's pods are scraped: by annotation, and by the name of the port.
        - {name: metrics, containerPort: 15020}
        - {name: http-envoy-prom, containerPort: 15090}
      # Ready with the first configuration, the controller's or the last good one.
      startupProbe:
        httpGet: {path: /healthz/ready, port: status}
        periodSeconds: 1
        failureThreshold: 300
      readinessProbe:
        httpGet: {path: /healthz/ready, port: status}
        periodSeconds: 3
        timeoutSeconds: 3
      # A gateway that drains is not ready but lives: only whether it accepts is asked.
      livenessProbe:
        tcpSocket: {port: status}
        periodSeconds: 10
        failureThreshold: 6
      {{- with .Values.lifecycle }}
      lifecycle: {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.resources }}
      resources: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- if .Values.containerSecurityContext }}
        {{- toYaml .Values.containerSecurityContext | nindent 8 }}
        {{- else }}
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
        {{- end }}
      volumeMounts:
        - {name: root-cert, mountPath: /var/run/secrets/istio, readOnly: true}
        - {name: token, mountPath: /var/run/secrets/tokens, readOnly: true}
        - {name: pod, mountPath: /etc/istio/pod, readOnly: true}
        - {name: state, mountPath: /var/lib/weir}
        {{- with .Values.volumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with .Values.additionalContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    # Made by the controller in every namespace; the pod waits for it.
    - name: root-cert
      configMap: {name: istio-ca-root-cert}
    - name: token
      projected:
        sources:
          - serviceAccountToken: {path: istio-token, audience: istio-ca, expirationSeconds: 43200}
    - name: pod
      downwardAPI:
        items:
          - path: labels
            fieldRef: {fieldPath: metadata.labels}
    # Outlives the container, not the pod: a restart serves again without the controller.
    - name: state
      emptyDir: {}
    {{- with .Values.volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- if .Values.topologySpreadConstraints }}
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
    {{- else }}
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "gateway.selector" . | nindent 10 }}
    {{- end }}
{{- end }}
