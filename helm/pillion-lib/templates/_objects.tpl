{{/* The Service that lists the nodes before they are ready, so that they find each other. One chart of a namespace makes it. */}}
{{- define "pillion.headlessService" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "pillion.serviceName" . }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "pillion.libLabels" . | nindent 4 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  ipFamilyPolicy: PreferDualStack
  selector: {{- include "pillion.podLabels" . | nindent 4 }}
  ports:
    - name: mesh
      port: {{ int $s.port }}
      targetPort: {{ int $s.port }}
      protocol: TCP
{{- end }}

{{/* What the pods of the namespace may: look for others, no more. Nothing with the strategy dns. */}}
{{- define "pillion.rbac" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- if eq $s.discovery.strategy "kubernetes" -}}
{{- $namespace := $s.discovery.namespace | default $root.Release.Namespace -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $root.Release.Name }}-pillion
  namespace: {{ $namespace }}
  labels: {{- include "pillion.libLabels" . | nindent 4 }}
rules:
  - apiGroups: [discovery.k8s.io]
    resources: [endpointslices]
    verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $root.Release.Name }}-pillion
  namespace: {{ $namespace }}
  labels: {{- include "pillion.libLabels" . | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ $root.Release.Name }}-pillion}
subjects:
  - {apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:serviceaccounts:{{ $root.Release.Namespace }}"}
{{- end -}}
{{- end }}

{{/* The certificate that all pods of the release share, where cert-manager makes it; else nothing. */}}
{{- define "pillion.certificate" -}}
{{- $root := .root | default . -}}
{{- $s := .settings | default ((.Values).pillion) | required (include "pillion.unsettled" .) -}}
{{- if and $s.trust.certManager.issuerRef (not $s.trust.tlsSecret) -}}
apiVersion: cert-manager.io/v1
kind: Certificate
metadata:
  name: {{ include "pillion.tlsSecret" . }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "pillion.libLabels" . | nindent 4 }}
spec:
  secretName: {{ include "pillion.tlsSecret" . }}
  issuerRef: {{- toYaml $s.trust.certManager.issuerRef | nindent 4 }}
  duration: {{ $s.trust.certManager.duration }}
  renewBefore: {{ $s.trust.certManager.renewBefore }}
  privateKey: {algorithm: ECDSA, size: 256, rotationPolicy: Always}
  usages: [digital signature, server auth, client auth]
  uris:
    - pillion://{{ $s.mesh }}/{{ include "pillion.tlsHost" . }}
{{- end -}}
{{- end }}
