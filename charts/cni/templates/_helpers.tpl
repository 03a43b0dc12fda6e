{{- define "cni.labels" -}}
app.kubernetes.io/name: weir-cni
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: weir
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "cni.selector" . }}
{{- end }}

{{/* What never changes: a DaemonSet cannot be given another one. */}}
{{- define "cni.selector" -}}
app: weir-cni
{{- end }}

{{/* Of objects that are not in a namespace. */}}
{{- define "cni.clusterName" -}}
weir-cni-{{ .Release.Namespace }}
{{- end }}

{{- define "cni.image" -}}
{{- $tag := .Values.tag | default .Values.global.tag | default .Chart.AppVersion -}}
{{ .Values.hub | default .Values.global.hub }}/{{ .Values.image }}:{{ $tag }}
{{- end }}
