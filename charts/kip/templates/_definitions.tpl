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

{{- /* Of a component: provider, or second. */}}
{{- define "kip.labels" -}}
app.kubernetes.io/name: kip
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- /* What Kip's own pods have in common. */}}
{{- define "kip.partOf" -}}
app.kubernetes.io/part-of: kip-provider
{{- end }}

{{- /* A file of kustomize's in the release's namespace, in which what names one virtual node names them all. */}}
{{- define "kip.rights" -}}
{{- $text := regexReplaceAll "(?m)^( *)namespace: kip$" (.root.Files.Get .file) (printf "${1}namespace: %s" .root.Release.Namespace) }}
{{- range $first := regexFindAll "resourceNames: \\[[^]]*kip-provider-0[^]]*\\]" $text -1 | uniq }}
{{- $name := $first | trimPrefix "resourceNames: [" | trimSuffix "]" }}
{{- $all := list }}
{{- range $i := until (int $.root.Values.virtualNodes) }}
{{- $all = append $all ($name | replace "kip-provider-0" (printf "kip-provider-%d" $i)) }}
{{- end }}
{{- $text = $text | replace $first (printf "resourceNames: [%s]" (join ", " $all)) }}
{{- end }}
{{- $text }}
{{- end }}
