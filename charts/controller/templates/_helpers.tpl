{{- define "controller.labels" -}}
app.kubernetes.io/name: weir-controller
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: weir
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "controller.selector" . }}
{{- end }}

{{/* What never changes: a Deployment cannot be given another one. */}}
{{- define "controller.selector" -}}
app: weir-controller
{{- end }}

{{/* Of objects that are not in a namespace. */}}
{{- define "controller.clusterName" -}}
weir-controller-{{ .Release.Namespace }}
{{- end }}

{{- define "controller.image" -}}
{{- $tag := .Values.tag | default .Values.global.tag | default .Chart.AppVersion -}}
{{ .Values.hub | default .Values.global.hub }}/{{ .Values.image }}:{{ $tag }}
{{- end }}

{{- define "controller.sidecarImage" -}}
{{- $tag := .Values.global.tag | default .Chart.AppVersion -}}
{{ .Values.global.hub }}/{{ .Values.global.proxy.image }}:{{ $tag }}
{{- end }}

{{/* What all webhooks of injection have in common; takes their part of the name, and what is there already. */}}
{{- define "controller.injection" -}}
- name: {{ .name }}.injection.weir.io
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 10
  # A pod that asked for a sidecar does not run without.
  failurePolicy: Fail
  reinvocationPolicy: {{ .root.Values.sidecarInjectorWebhook.reinvocationPolicy }}
  clientConfig:
    service:
      name: weir-controller
      namespace: {{ .root.Release.Namespace }}
      path: /inject
      port: 443
    {{- with .there }}
    {{- $webhook := first .webhooks }}
    {{- with $webhook.clientConfig.caBundle }}
    caBundle: {{ . }}
    {{- end }}
    {{- end }}
  rules:
    - operations: [CREATE]
      apiGroups: [""]
      apiVersions: [v1]
      resources: [pods]
{{- end }}
