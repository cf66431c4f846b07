// Package cloudprovider is the seam between Kip and a cloud: four methods, the
// plain data they exchange, and the kinds of errors that callers tell apart.
//
// The rules of the seam, which the suite in cloudprovidertest checks on every
// implementation:
//
//   - A call takes as long as its own API calls and never waits for an instance
//     to change state. Progress is seen by List and Get.
//   - Every call may be repeated. Create is idempotent by its ClientToken,
//     Delete by its nature. A caller that was killed, or got no answer, repeats
//     the same call and ends where it would have ended.
//   - An implementation touches only what carries its own controller ID, and
//     keeps no state that it could not read again from the cloud.
//   - Reads are eventually consistent: an instance may be missing from List and
//     Get for some seconds after Create returned it, and be listed for an hour
//     after it terminated. Callers that conclude something from an absence look
//     twice, some time apart.
//
// What a cloud offers besides (security groups, images, subnets) is the
// implementation's own business and does not show here.
package cloudprovider
