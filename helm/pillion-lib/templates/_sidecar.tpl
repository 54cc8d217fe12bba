{{/*
The one place that says what the sidecar's container is. Modes: "" (a Secret of its own namespace), "issued" (the injector adds
it, and its certificate comes from there), "agent" (the same as "", for all pods of a machine).

What an annotation of a pod may change stands in the environment, where the injector finds it by name; flags beat the
environment, so what nobody may change stands in the arguments. $(PILLION_MESH) is put in by the kubelet.
*/}}
{{- define "pillion.sidecar" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- $mode := .mode | default "" -}}
{{- include "pillion.validate" . -}}
{{- $tls := include "pillion.tlsSecret" . -}}
name: pillion
image: {{ include "pillion.image" . | quote }}
imagePullPolicy: {{ $s.image.pullPolicy }}
{{- if and $s.native (ne $mode "agent") }}
restartPolicy: Always
{{- end }}
args:
  - up
  - --socket
  - {{ $s.socket.dir }}/pillion.sock
  - --socket-mode
  - {{ $s.socket.mode | quote }}
  - --health
  - "[::]:{{ int $s.healthPort }}"
  {{- range include "pillion.strategies" . | fromYamlArray }}
  - --strategy
  - {{ . | quote }}
  {{- end }}
  {{- if ne $mode "issued" }}
  {{- if $tls }}
  - --tls-ca
  - /etc/pillion/trust/ca.crt
  - --tls-cert
  - /etc/pillion/trust/tls.crt
  - --tls-key
  - /etc/pillion/trust/tls.key
  {{- else }}
  - --cookie-file
  - /etc/pillion/trust/cookie
  {{- end }}
  {{- end }}
  {{- range $s.args }}
  - {{ . | quote }}
  {{- end }}
env:
  {{- include "pillion.podEnv" . | nindent 2 }}
  - name: POD_UID
    valueFrom: {fieldRef: {fieldPath: metadata.uid}}
  - name: POD_IP
    valueFrom: {fieldRef: {fieldPath: status.podIP}}
  - name: POD_IPS
    valueFrom: {fieldRef: {fieldPath: status.podIPs}}
  - name: PILLION_APP
    {{- if or $s.name (ne $mode "issued") }}
    value: {{ include "pillion.base" . }}
    {{- else }}
    valueFrom: {fieldRef: {fieldPath: "metadata.labels['app.kubernetes.io/name']"}}
    {{- end }}
  {{- if and $tls (ne $mode "issued") }}
  - name: PILLION_NAME
    value: $(POD_NAME)@{{ include "pillion.tlsHost" . }}
  {{- end }}
  - name: PILLION_SOCKET
    value: {{ $s.socket.dir }}/pillion.sock
  # Where drain and ready find the node, too.
  - name: PILLION_OPERATOR_SOCKET
    value: /run/pillion-operator/operator.sock
  - name: PILLION_DIR
    value: /run/pillion-operator/local
  - name: PILLION_MESH
    value: {{ $s.mesh }}
  - name: PILLION_LISTEN
    value: ":{{ int $s.port }}"
  {{- if eq $mode "issued" }}
  - name: PILLION_ISSUER
    value: https://{{ .issuer }}.{{ $root.Release.Namespace }}.svc/v1/certificate
  - name: PILLION_ISSUER_TOKEN
    value: /var/run/secrets/pillion.dev/token
  {{- end }}
  - name: PILLION_PROFILE
    value: {{ $s.profile }}
  - name: PILLION_MIN_PEERS
    value: {{ int $s.minPeers | quote }}
  {{- with $s.role }}
  - name: PILLION_ROLE
    value: {{ . | quote }}
  {{- end }}
  {{- if $s.labels }}
  - name: PILLION_LABELS
    value: {{ include "pillion.pairs" $s.labels | quote }}
  {{- end }}
  - name: PILLION_GRACE
    value: {{ $s.drain.timeout }}
  - name: PILLION_LOG_LEVEL
    value: {{ $s.log.level }}
  - name: PILLION_LOG_FORMAT
    value: {{ $s.log.format }}
  {{- with $s.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
ports:
  - name: mesh
    containerPort: {{ int $s.port }}
    protocol: TCP
  - name: pillion-health
    containerPort: {{ int $s.healthPort }}
    protocol: TCP
startupProbe: {{- include "pillion.probe" (dict "path" "/startupz" "timing" $s.probes.startup) | nindent 2 }}
readinessProbe: {{- include "pillion.probe" (dict "path" "/readyz" "timing" $s.probes.readiness) | nindent 2 }}
livenessProbe: {{- include "pillion.probe" (dict "path" "/livez" "timing" $s.probes.liveness) | nindent 2 }}
{{- if $s.drain.preStop }}
lifecycle:
  preStop:
    exec:
      command: [/pillion, drain, --wait, {{ $s.drain.timeout | quote }}]
{{- end }}
terminationMessagePolicy: FallbackToLogsOnError
{{- with $s.resources }}
resources: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if eq $mode "agent" }}
securityContext:
  # The directory of the socket is the machine's, and root's.
  runAsNonRoot: false
  runAsUser: 0
  runAsGroup: 0
  {{- omit $s.securityContext "runAsNonRoot" "runAsUser" "runAsGroup" | toYaml | nindent 2 }}
{{- else }}
{{- with $s.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
volumeMounts:
  - name: pillion-socket
    mountPath: {{ $s.socket.dir }}
  - name: pillion-operator
    mountPath: /run/pillion-operator
  {{- if eq $s.discovery.strategy "kubernetes" }}
  - name: pillion-api
    mountPath: /var/run/secrets/kubernetes.io/serviceaccount
    readOnly: true
  {{- end }}
  {{- if eq $mode "issued" }}
  - name: pillion-token
    mountPath: /var/run/secrets/pillion.dev
    readOnly: true
  {{- else }}
  - name: pillion-trust
    mountPath: /etc/pillion/trust
    readOnly: true
  {{- end }}
{{- end }}

{{/* The volumes of the sidecar. The token of the API is mounted there only; whether apps have one is their pod's affair. */}}
{{- define "pillion.volumes" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- $mode := .mode | default "" -}}
- name: pillion-socket
  {{- if eq $mode "agent" }}
  hostPath: {path: {{ $s.socket.dir }}, type: DirectoryOrCreate}
  {{- else }}
  emptyDir: {sizeLimit: {{ $s.socket.sizeLimit }}}
  {{- end }}
- name: pillion-operator
  emptyDir: {sizeLimit: {{ $s.socket.sizeLimit }}}
{{- if eq $s.discovery.strategy "kubernetes" }}
- name: pillion-api
  projected:
    defaultMode: 0444
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end }}
{{- if eq $mode "issued" }}
- name: pillion-token
  projected:
    defaultMode: 0444
    sources:
      - serviceAccountToken: {path: token, audience: pillion.dev, expirationSeconds: 3600}
{{- else }}
- name: pillion-trust
  secret:
    secretName: {{ include "pillion.tlsSecret" . | default $s.trust.cookieSecret }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{/* What an app container mounts: read-only, so that it can connect to the socket and not remove it. */}}
{{- define "pillion.appMounts" -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
- name: pillion-socket
  mountPath: {{ $s.socket.dir }}
  readOnly: true
{{- end }}

{{/* What an app container finds in its environment. */}}
{{- define "pillion.appEnv" -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- $mode := .mode | default "" -}}
{{ include "pillion.podEnv" . }}
- name: PILLION_SOCKET
  value: {{ $s.socket.dir }}/pillion.sock
- name: PILLION_MESH
  value: {{ $s.mesh }}
{{- if ne $mode "issued" }}
- name: PILLION_NODE
  value: {{ if include "pillion.tlsSecret" . }}$(POD_NAME)@{{ include "pillion.tlsHost" . }}{{ else }}{{ include "pillion.base" . }}@$(POD_NAME).$(POD_NAMESPACE){{ end }}
{{- end }}
{{- end }}

{{/* Where a container runs. */}}
{{- define "pillion.podEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- end }}

{{/* Where the nodes find each other, as URLs. */}}
{{- define "pillion.strategies" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- $service := $s.discovery.service | default "pillion-$(PILLION_MESH)" -}}
{{- $namespace := $s.discovery.namespace | default $root.Release.Namespace -}}
{{- $urls := list -}}
{{- if eq $s.discovery.strategy "dns" -}}
{{- $urls = append $urls (printf "dns://%s.%s.svc" $service $namespace) -}}
{{- else -}}
{{- $urls = append $urls (printf "kubernetes://?service=%s&namespace=%s" $service $namespace) -}}
{{- end -}}
{{- concat $urls $s.discovery.more | toYaml -}}
{{- end }}

{{/* One probe of the health port. */}}
{{- define "pillion.probe" -}}
httpGet: {path: {{ .path }}, port: pillion-health}
{{ toYaml .timing }}
{{- end }}

{{/* Keys and texts as one text. */}}
{{- define "pillion.pairs" -}}
{{- $pairs := list -}}
{{- range $key, $value := . }}{{ $pairs = append $pairs (printf "%s=%s" $key $value) }}{{ end -}}
{{- join "," $pairs -}}
{{- end }}

{{/* Lets an app container without a preStop of its own wait until the node is drained; nothing before Kubernetes 1.30, which
does not know `sleep` yet. */}}
{{- define "pillion.appLifecycle" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- if and (gt (int $s.appPreStopSleep) 0) (semverCompare ">=1.30.0-0" $root.Capabilities.KubeVersion.Version) -}}
lifecycle:
  preStop:
    sleep: {seconds: {{ int $s.appPreStopSleep }}}
{{- end -}}
{{- end }}
