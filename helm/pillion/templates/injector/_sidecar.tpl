{{/* What the injector adds to a pod, as JSON: the library's container as it is, and what goes into the app's containers. */}}
{{- define "pillion.sidecarJson" -}}
{{- $with := dict "root" . "settings" .Values.sidecar "mode" "issued" "key" "sidecar" "issuer" (printf "%s-injector" (include "pillion.fullname" .)) -}}
{{- $json := dict
  "container" (include "pillion.sidecar" $with | fromYaml)
  "volumes" (include "pillion.volumes" $with | fromYamlArray)
  "app" (dict "env" (include "pillion.appEnv" $with | fromYamlArray) "volumeMounts" (include "pillion.appMounts" $with | fromYamlArray))
  "appPreStopSleep" (int .Values.sidecar.appPreStopSleep)
  "mesh" .Values.sidecar.mesh
  "native" .Values.sidecar.native -}}
{{- $json | toPrettyJson | replace "\\u0026" "&" | replace "\\u003c" "<" | replace "\\u003e" ">" -}}
{{- end }}
