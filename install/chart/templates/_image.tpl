{{/* The image, by digest where there is one. */}}
{{- define "k8slan.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A file of install/, in this release's namespace. */}}
{{- define "k8slan.file" -}}
{{- .root.Files.Get .file | replace "namespace: k8slan-system" (printf "namespace: %s" .root.Release.Namespace) -}}
{{- end -}}
