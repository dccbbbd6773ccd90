{{- /*
What a Job's template takes from here. The chart beside this one, example, has all of it at its place.

      initContainers:
      {{- include "sentinel-shim.initContainer" . | nindent 6 }}
      containers:
      - name: proxy
        command: {{ include "sentinel-shim.shim" (dict "stop-signal" "QUIT") }}
        args: [nginx, -g, daemon off;]
        volumeMounts:
        {{- include "sentinel-shim.volumeMounts" . | nindent 8 }}
      - name: main
        command: {{ include "sentinel-shim.sentinel" (dict "wait-for" "tcp://127.0.0.1:80") }}
        args: [wget, -q, -O, "-", "http://127.0.0.1/"]
        volumeMounts:
        {{- include "sentinel-shim.volumeMounts" . | nindent 8 }}
      volumes:
      {{- include "sentinel-shim.volumes" . | nindent 6 }}
*/}}

{{- /* The init container, which brings both programs: a list of one. It has to be the first. */}}
{{- define "sentinel-shim.initContainer" -}}
{{- $values := index .Values "sentinel-shim" -}}
- name: sentinel-shim
  image: {{ $values.image }}
  args: [--copy-to, /sentinel-shim]
  {{- with $values.resources }}
  resources: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.securityContext }}
  securityContext: {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
  - {name: sentinel-shim, mountPath: /sentinel-shim}
{{- end }}

{{- /* The volumes: a list. The programs have one of their own, so no container can change what another one runs. */}}
{{- define "sentinel-shim.volumes" -}}
- name: sentinel-shim
  emptyDir: {sizeLimit: 32Mi}
- name: pod
  emptyDir: {sizeLimit: 1Mi}
{{- end }}

{{- /* The mounts of a wrapped container: a list. */}}
{{- define "sentinel-shim.volumeMounts" -}}
- {name: sentinel-shim, mountPath: /sentinel-shim, readOnly: true}
- {name: pod, mountPath: /tmp/pod}
{{- end }}

{{- /* The command of main's container. What main runs is in args, complete: the image's ENTRYPOINT counts no more.
Its argument are sentinel's flags, a dict, and may be nil. A flag with several values has a list. */}}
{{- define "sentinel-shim.sentinel" -}}
{{- include "sentinel-shim.wrapper" (dict "program" "sentinel" "flags" .) -}}
{{- end }}

{{- /* The command of a sidecar's container, as sentinel-shim.sentinel is that of main's. */}}
{{- define "sentinel-shim.shim" -}}
{{- include "sentinel-shim.wrapper" (dict "program" "shim" "flags" .) -}}
{{- end }}

{{- define "sentinel-shim.wrapper" -}}
{{- $command := list (printf "/sentinel-shim/%s" .program) -}}
{{- range $flag, $values := .flags -}}
  {{- range (kindIs "slice" $values | ternary $values (list $values)) -}}
    {{- $command = append $command (printf "--%s=%v" $flag .) -}}
  {{- end -}}
{{- end -}}
{{- append $command "--" | toJson -}}
{{- end }}
