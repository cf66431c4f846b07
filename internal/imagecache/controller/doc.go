// Package controller fills the image cache: with the images of the pods on Kip's
// nodes, and with those that are to be kept warm.
//
//	pod ──► resolve its images ──► CachedImage ready? ──► note the use
//	        (its own pull secrets)        │ no
//	                                      ▼
//	           each layer: pull ─► convert ─► file on the share ─► CachedImage
//
// An image is looked for as the pod's kubelet would, with the pod's own pull
// secrets. It is written down under its repository, and who may have it is
// decided again for every pod (package grants). That is why a layer must come
// from the registry that names it, even if the cache has it already: a registry
// can name any digest, but only one that has the bytes can send them. A registry
// that has sent a layer once is believed about its other repositories.
//
// Nothing that fails here keeps a pod from starting: it is tried again later,
// said in an event, and until then cells pull.
//
// A crash is harmless at any line. A file comes into being by a rename and has a
// seal, so that one without a CachedImage is found again and used; what is
// unfinished is removed. Several controllers may run: one of them works (leader
// election), and two that believe so for a moment make the same files.
package controller
