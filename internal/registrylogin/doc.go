// Package registrylogin gives cells the logins to the cloud's own image
// registries, got with Kip's own role, and says so at the pod when that role
// may not. The gateway has made sure before that the pod names the registry.
package registrylogin
