{{/* What the pods of `helm test` have in common: they pass the Pod Security level `restricted`. */}}
{{- define "pillion.testContainer" -}}
image: {{ include "pillion.image" (dict "root" . "settings" .Values.sidecar) | quote }}
imagePullPolicy: {{ .Values.sidecar.image.pullPolicy }}
resources:
  requests: {cpu: 5m, memory: 8Mi}
  limits: {memory: 64Mi}
securityContext: {{- toYaml .Values.sidecar.securityContext | nindent 2 }}
{{- end }}
