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
