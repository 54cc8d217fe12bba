{{/* Says what does not go together, and what to do. What a value alone may be is in values.schema.json. */}}
{{- define "pillion.validateChart" -}}
{{- if and .Values.injector.enabled .Values.agent.enabled -}}
{{- fail "agent.enabled: injected pods and agents have different roots of trust, so they cannot be one mesh. Set injector.enabled=false, or install the agent as a release of its own in another namespace" -}}
{{- end -}}
{{- if and .Values.injector.enabled .Values.sidecar.discovery.service -}}
{{- fail "sidecar.discovery.service: the injector fills pillion-<mesh>; leave it empty" -}}
{{- end -}}
{{- if and .Values.injector.enabled .Values.sidecar.discovery.namespace (ne .Values.sidecar.discovery.namespace .Release.Namespace) -}}
{{- fail (printf "sidecar.discovery.namespace: the injector fills the Services of its own namespace; leave it empty, or install into %s" .Values.sidecar.discovery.namespace) -}}
{{- end -}}
{{- if and .Values.injector.enabled (eq .Values.sidecar.socket.mode "0600") -}}
{{- fail "sidecar.socket.mode: apps of another uid than the sidecar's could not open the socket; 0666 is safe in a volume of the pod's own" -}}
{{- end -}}
{{- if and .Values.agent.enabled (ne .Values.sidecar.socket.mode "0666") -}}
{{- fail "sidecar.socket.mode: the agent runs as root and its apps do not; set 0666" -}}
{{- end -}}
{{- if and .Values.injector.enabled (eq (int .Values.injector.port) (int .Values.sidecar.healthPort)) -}}
{{- fail "injector.port and sidecar.healthPort are the same; the webhook and its probes need a port each" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) (not .Values.serviceAccount.name) .Values.rbac.create -}}
{{- fail "serviceAccount.name: name the account to use, because serviceAccount.create is false; `default` would give its rights to every pod of the namespace" -}}
{{- end -}}
{{- if and .Values.monitoring.serviceMonitor.enabled (not .Values.injector.enabled) -}}
{{- fail "monitoring.serviceMonitor.enabled: it scrapes the injector, which is not installed; monitoring.podMonitor.enabled scrapes the nodes" -}}
{{- end -}}
{{- if and .Values.networkPolicy.namespaces (not .Values.injector.enabled) -}}
{{- fail "networkPolicy.namespaces: it is for annotated pods, and the injector is not installed; leave it empty" -}}
{{- end -}}
{{- if not (or .Values.injector.enabled .Values.agent.enabled) -}}
{{- fail "nothing to install: set injector.enabled=true or agent.enabled=true; a chart of your own that wants the sidecar only includes pillion-lib" -}}
{{- end -}}
{{- end }}
