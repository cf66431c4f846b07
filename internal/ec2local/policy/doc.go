// Package policy reads IAM policies and answers what they allow.
//
// It is stricter than IAM where a policy says something that this package could not judge: an operator, a condition
// key, an element or a policy variable that is unknown here makes the whole document malformed, since a condition that
// is ignored would allow what AWS denies, and a test under such a policy would prove nothing.
//
// [Parse] reads policies of identities, [ParseTrust] those that say who may assume a role. Callers describe what is
// about to happen as a [Request] and fill in all condition keys that apply to it (keys.go lists them).
package policy
