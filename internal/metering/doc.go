// Package metering tells a marketplace how long cells ran, and asks it whether
// they may.
//
// Usage is counted in seconds, hour by hour (UTC), from a cell's enrolment to
// its end, and reported once an hour in whole cell-hours; the rest counts
// towards the next hour. What is needed for that and would be lost with Kip or
// with a Cell is in one ConfigMap:
//
//   - An hour is closed once, in one write: the sum and the record that will
//     say so to the marketplace. Only then the record is sent, and sent again,
//     unchanged, until there is an answer. The marketplace counts a record of
//     the same hour once.
//   - A Cell that goes is counted before its finalizer does, in one write with
//     its UID, so that a repetition is noticed. The UID is forgotten when the
//     Cell is long gone.
//   - A Cell that is there when an hour is closed, and not counted, is read as
//     it is: nothing about it needs to be written.
//
// A marketplace that refuses stops launches and nothing else. One that does not
// answer stops nothing.
package metering
