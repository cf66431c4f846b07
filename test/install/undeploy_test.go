package install

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// cluster is a kubectl that plays a cluster whose state is the files beside it:
// nodes, pods, cells (each line is gone when it was listed twice after the pods'
// deletion), job (the result), replicas, failing (a pattern of calls that
// fail). Every change is noted in the file changes. It refuses to end Kip while
// there are cells.
const cluster = `#!/bin/bash
cd "$(dirname "$0")" || exit 1
all=" $* "
[ -f failing ] && grep -qF "$(cat failing)" <<<"$all" && { echo "connection refused" >&2; exit 1; }
case $all in
*" get namespaces "*) ;;
*" get nodes "*) cat nodes ;;
*" get pods --all-namespaces "*) cat pods ;;
*" get cells.kip.elotl.co "*) cat cells; [ -s pods ] || { tail -n +2 cells >cells.next; mv cells.next cells; } ;;
*" get customresourcedefinition "*) [ -f gone-crd ] || echo crd ;;
*" get statefulset kip-provider --ignore-not-found "*) [ ! -f replicas ] || echo statefulset ;;
*" get statefulset kip-provider --output jsonpath={.spec.replicas} "*) cat replicas ;;
*" get statefulset kip-provider --output "*) echo registry/kip:1 ;;
*" get pod kip-provider-"* | *" get node kip-provider-"*) echo it ;;
*" get job "*) cat job ;;
*" logs "* | *" describe "* | *" wait "*) ;;
*" delete pod "*) : >pods; echo "$*" >>changes ;;
*" scale "*" --replicas 0 "*) [ -s cells ] && exit 1; echo 0 >replicas; echo "$*" >>changes ;;
*" scale "*) echo "${all##*--replicas }" | tr -d ' ' >replicas; echo "$*" >>changes ;;
*" apply "*) cat >applied; echo "$*" >>changes ;;
*) echo "$*" >>changes ;;
esac
`

func TestUndeploy(t *testing.T) {
	const pod, cell = "default web-1\n", "web-1-abc (Running i-1)\n"
	removals := []string{
		"--namespace kip delete job kip-cleanup", "apply --filename -", "delete node kip-provider-0", "delete lease kip-provider-0",
		"delete customresourcedefinition cells.kip.elotl.co cachedimages.kip.elotl.co", "delete clusterrolebinding,clusterrole kip-provider",
		"delete rolebinding,role kip-provider --namespace kube-node-lease", "delete rolebinding kip-provider-client-ca --namespace kube-system",
		"delete namespace kip",
	}
	const noSecond = "--namespace kip delete statefulset kip-second"
	const stop = "--namespace kip scale statefulset kip-provider --replicas 0"
	tests := map[string]struct {
		reason string
		state  map[string]string
		args   []string
		code   int
		want   []string // the changes, in order, by their beginnings
		says   string
	}{
		"nothing runs": {
			reason: "Kip ends, then its group, then the rest",
			state:  map[string]string{"replicas": "1", "job": "Complete"},
			want:   slices.Concat([]string{"cordon", noSecond, stop}, removals),
		},
		"two virtual nodes": {
			reason: "each has a group of its own",
			state:  map[string]string{"replicas": "2", "job": "Complete", "nodes": "kip-provider-0\nkip-provider-1\n"},
			want: slices.Concat([]string{"cordon kip-provider-0", "cordon kip-provider-1", noSecond, stop}, removals[:2], removals[:2],
				removals[2:4], []string{"delete node kip-provider-1", "delete lease kip-provider-1"}, removals[4:]),
		},
		"pods run": {
			reason: "somebody's work is not ended by the way",
			state:  map[string]string{"replicas": "1", "pods": pod, "cells": cell},
			code:   1, says: "default web-1",
		},
		"pods run and may go": {
			reason: "Kip ends only when the last cell is gone",
			state:  map[string]string{"replicas": "1", "pods": pod, "cells": cell + cell + cell, "job": "Complete"},
			args:   []string{"--delete-pods"},
			want:   slices.Concat([]string{"cordon", "--namespace default delete pod web-1", noSecond, stop}, removals),
		},
		"the group stays": {
			reason: "what is left needs Kip's role, service account and configuration",
			state:  map[string]string{"replicas": "1", "job": "Failed"},
			code:   1, want: []string{"cordon", noSecond, stop, removals[0], removals[1]}, says: "--keep-security-group",
		},
		"the role is gone already": {
			reason: "then the group is the user's to remove",
			state:  map[string]string{"replicas": "1"}, args: []string{"--keep-security-group"},
			want: slices.Concat([]string{"cordon", noSecond, stop}, removals[2:]),
		},
		"cells without a Kip": {
			reason: "nobody would end their instances",
			state:  map[string]string{"cells": cell}, code: 1, says: "deploy it again",
		},
		"again after an interruption": {
			reason: "what was done is not done twice",
			state:  map[string]string{"gone-crd": ""}, want: slices.DeleteFunc(slices.Clone(removals[2:]), func(s string) bool { return strings.Contains(s, "customresource") }),
		},
		"stopped with cells left": {
			reason: "Kip has to run to end them",
			state:  map[string]string{"replicas": "0", "cells": cell + cell, "job": "Complete"},
			want:   slices.Concat([]string{"--namespace kip scale statefulset kip-provider --replicas 1", "cordon", noSecond, stop}, removals),
		},
		"the API server fails": {
			reason: "no answer is not the answer that there is nothing",
			state:  map[string]string{"replicas": "1", "cells": cell, "failing": " get customresourcedefinition "},
			code:   1, says: "kubectl failed",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := programs(t, map[string]string{"kubectl": cluster, "sleep": "#!/bin/sh\n"})
			state := map[string]string{"nodes": "node-0\nkip-provider-0\n", "pods": "", "cells": "", "job": "", "changes": ""}
			for file, text := range tc.state {
				state[file] = text
			}
			for file, text := range state {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, stderr, code := script(t, dir, "undeploy.sh", nil, tc.args...)
			if code != tc.code || !strings.Contains(stderr, tc.says) {
				t.Errorf("%s: exit code %d\n%s", tc.reason, code, stderr)
			}
			data, err := os.ReadFile(filepath.Join(dir, "changes"))
			if err != nil {
				t.Fatal(err)
			}
			changes := strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
			if len(changes) != len(tc.want) {
				t.Fatalf("%s: it changed\n%s\nwant\n%s", tc.reason, data, strings.Join(tc.want, "\n"))
			}
			for i, want := range tc.want {
				if !strings.HasPrefix(changes[i], want) {
					t.Errorf("%s: change %d is %q, want %q", tc.reason, i, changes[i], want)
				}
			}
		})
	}
}
