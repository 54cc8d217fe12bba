{{/* Every include takes the context of a chart that has the values below `pillion:`, or a dict: root, settings and mode. */}}

{{/* What a chart says that gave the values another name. */}}
{{- define "pillion.unsettled" -}}
pillion-lib: no values below `pillion:`; write `alias: pillion` to the dependency in Chart.yaml
{{- end }}

{{/* The image: a digest beats a tag, the registry of all charts beats our own. */}}
{{- define "pillion.image" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- $registry := $s.global.imageRegistry | default $s.image.registry -}}
{{- $name := $s.image.repository -}}
{{- if $registry }}{{ $name = printf "%s/%s" $registry $s.image.repository }}{{ end -}}
{{- if $s.image.digest -}}
{{ $name }}@{{ $s.image.digest }}
{{- else -}}
{{ $name }}:{{ $s.image.tag | default (include "pillion.version" .) }}
{{- end -}}
{{- end }}

{{/* What the node is called before the `@`. */}}
{{- define "pillion.base" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- regexReplaceAll "[^A-Za-z0-9_-]" ($s.name | default $root.Chart.Name) "-" | trunc 64 -}}
{{- end }}

{{/* The host of all pods of a release that share one certificate. */}}
{{- define "pillion.tlsHost" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- $s.trust.tlsHost | default (printf "%s.%s" (include "pillion.base" .) $root.Release.Namespace) -}}
{{- end }}

{{/* The headless Service that lists the nodes. */}}
{{- define "pillion.serviceName" -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- $s.discovery.service | default (printf "pillion-%s" $s.mesh) -}}
{{- end }}

{{/* The Secret with certificates: given, or made by cert-manager; empty when neither. */}}
{{- define "pillion.tlsSecret" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- if $s.trust.tlsSecret -}}
{{ $s.trust.tlsSecret }}
{{- else if $s.trust.certManager.issuerRef -}}
{{ $root.Release.Name }}-pillion-tls
{{- end -}}
{{- end }}

{{/* Labels of what these includes make. */}}
{{- define "pillion.libLabels" -}}
{{- $root := .root | default . -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/component: pillion
{{- end }}

{{/* The label of the pods that the headless Service lists. Not pillion.dev/mesh: that is what the injector looks for. */}}
{{- define "pillion.podLabels" -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
pillion.dev/member: {{ $s.mesh }}
{{- end }}

{{/* Says what does not go together, and what to do. */}}
{{- define "pillion.validate" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- $key := .key | default "pillion" -}}
{{- $given := list -}}
{{- if $s.trust.cookieSecret }}{{ $given = append $given "trust.cookieSecret" }}{{ end -}}
{{- if $s.trust.tlsSecret }}{{ $given = append $given "trust.tlsSecret" }}{{ end -}}
{{- if $s.trust.certManager.issuerRef }}{{ $given = append $given "trust.certManager.issuerRef" }}{{ end -}}
{{- if eq (.mode | default "") "issued" -}}
{{- if $given -}}
{{- fail (printf "%s.%s: injected pods get their certificates from the injector and hold no Secret; leave it empty" $key (first $given)) -}}
{{- end -}}
{{- else if not $given -}}
{{- fail (printf "%s.trust: nobody could join without a secret. Make one with\n  kubectl --namespace %s create secret generic pillion-cookie --from-literal=cookie=$(openssl rand -hex 32)\nand set %s.trust.cookieSecret=pillion-cookie; or set %s.trust.tlsSecret or %s.trust.certManager.issuerRef" $key $root.Release.Namespace $key $key $key) -}}
{{- else if gt (len $given) 1 -}}
{{- fail (printf "%s.%s and %s.%s: a mesh has one root of trust; leave one of them empty" $key (first $given) $key (last $given)) -}}
{{- end -}}
{{- if and (not $s.native) (eq (.mode | default "") "agent") -}}
{{- fail (printf "%s.native: the agent is no sidecar; leave it true" $key) -}}
{{- end -}}
{{- if eq (int $s.port) (int $s.healthPort) -}}
{{- fail (printf "%s.port and %s.healthPort are both %d; nodes and probes need a port each" $key $key (int $s.port)) -}}
{{- end -}}
{{- if hasPrefix "/run/pillion-operator/" (printf "%s/" $s.socket.dir) -}}
{{- fail (printf "%s.socket.dir: %s is where the operators' socket is; choose another, as /run/pillion" $key $s.socket.dir) -}}
{{- end -}}
{{- end }}

{{/* The version of the image where none is given: that which these includes were made for. */}}
{{- define "pillion.version" -}}0.1.0{{- end }}
