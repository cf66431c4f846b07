{{- /* What deploy.sh and envsubst do to the same file. */}}
{{- define "kip.providerConfig" -}}
{{- if .Values.providerConfig }}
{{- .Values.providerConfig }}
{{- else -}}
{{- $_ := required "vpcID is required, or a whole providerConfig" .Values.vpcID }}
{{- .Files.Get "files/provider.yaml"
  | replace "${USE_REGION}" .Values.region
  | replace "${VPC_ID}" .Values.vpcID
  | replace "[${CELL_SOFTWARE}]" (toJson .Values.cellSoftware)
  | replace "${CELL_IMAGE_ID}" (join "," .Values.cellImageIDs)
  | replace "${CELL_INSTANCE_PROFILE_ARN}" .Values.cellInstanceProfileARN
  | replace "${KIP_CELL_SG}" (join "," .Values.cellSecurityGroups)
  | replace "${CLUSTER_DNS}" (join "," .Values.clusterDNS)
  | replace "${IMAGE_CACHE}" (ternary (toJson (dict "endpoint" .Values.imageCache.endpoint)) "" (ne .Values.imageCache.endpoint "")) }}
{{- end }}
{{- end }}

{{- define "kip.image" -}}
{{ .Values.image.registry }}/kip:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "kip.labels" -}}
app.kubernetes.io/name: kip
app.kubernetes.io/component: provider
{{- end }}
