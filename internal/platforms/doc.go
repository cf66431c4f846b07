// Package platforms finds out for which architectures container images are
// made, by asking the registries that have them: the configured mirrors first,
// as a cell would, then the registry that the image names.
//
// It asks as anybody may, without credentials. What cannot be found out so (a
// private image, a registry that Kip does not reach, an answer that comes too
// late) is "not known", which is an answer too: whoever asks then does without.
// So a registry can delay a launch by Patience, once per image, and never stop
// one.
//
//	pod's images ──► Of ──► cache ──(miss)──► queue ──► workers ──► mirrors, registry
//	                  └──► known, not known, or ask again in a moment
package platforms
