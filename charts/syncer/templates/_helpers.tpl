{{- define "syncer.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* The start of every object's name; a CronJob's has at most 52 characters. */}}
{{- define "syncer.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains (include "syncer.name" .) .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "syncer.name" .) | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "syncer.selector" -}}
app.kubernetes.io/name: {{ include "syncer.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* What every object says of itself; labels and annotations of its own beat those of all. */}}
{{- define "syncer.metadata" -}}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "syncer.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
  {{- with merge dict (default dict .labels) .root.Values.labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge dict (default dict .annotations) .root.Values.annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "syncer.podMetadata" -}}
labels:
  {{- include "syncer.selector" . | nindent 2 }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What every pod says of itself, before its containers. */}}
{{- define "syncer.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "syncer.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  privileged: false
  capabilities:
    drop: [ALL]
{{- end }}

{{/* What every container of syncer's image has, but for its arguments and volumes. */}}
{{- define "syncer.container" -}}
{{- $image := .Values.image -}}
image: {{ required "image.repository is where you pushed the image of `make image`" $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
imagePullPolicy: {{ $image.pullPolicy }}
{{ include "syncer.containerSecurity" . }}
env:
  - name: HOME
    value: /var/lib/syncer
  {{- range $name, $value := .Values.environment }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
{{- end }}

{{/* Variables of Secrets, for the commands that log in somewhere. */}}
{{- define "syncer.loginEnvironment" -}}
{{- with .Values.logins.environment }}
envFrom:
  {{- range . }}
  - secretRef:
      name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "syncer.loginArgs" -}}
{{- if .Values.logins.registry }}
- --authfile=/run/secrets/registry/config.json
{{- end }}
{{- if .Values.logins.authorities }}
- --ca-cert=/run/config/authorities/ca.crt
{{- end }}
{{- end }}

{{- define "syncer.loginMounts" -}}
{{- if .Values.logins.registry }}
- {name: registry-logins, mountPath: /run/secrets/registry, readOnly: true}
{{- end }}
{{- range .Values.logins.files }}
- {name: {{ printf "login-%s" (replace "." "-" .) | trunc 63 | trimSuffix "-" }}, mountPath: /run/secrets/syncer/{{ . }}, readOnly: true}
{{- end }}
{{- if .Values.logins.authorities }}
- {name: authorities, mountPath: /run/config/authorities, readOnly: true}
{{- end }}
- {name: scratch, mountPath: /tmp}
{{- end }}

{{- define "syncer.loginVolumes" -}}
{{- with .Values.logins.registry }}
- name: registry-logins
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: .dockerconfigjson, path: config.json}
{{- end }}
{{- range .Values.logins.files }}
- name: {{ printf "login-%s" (replace "." "-" .) | trunc 63 | trimSuffix "-" }}
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- with .Values.logins.authorities }}
- name: authorities
  configMap:
    name: {{ . }}
{{- end }}
- name: scratch
  emptyDir:
    sizeLimit: {{ .Values.scratch.sizeLimit }}
{{- end }}

{{/* A file that the values have as text, or as YAML. */}}
{{- define "syncer.document" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toYaml . }}{{ end }}
{{- end }}
