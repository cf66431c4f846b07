// Package iam holds who there is in ec2local's account besides its administrators: roles with their policies, instance
// profiles, and OIDC providers whose tokens stand for roles. It makes the temporary credentials of those who assume a
// role, and tells package access whose credentials a request was signed with.
//
// A session is not stored: its token says which role it is of and until when, sealed with the account's key, and the
// secret key follows from the same. So sessions outlive ec2local's process as they outlive AWS's. A policy that is
// changed holds for running sessions at once; a role that is deleted ends its sessions, even if one of the same name is
// made anew.
package iam
