// Package connection keeps Kip connected to its cells.
//
// For every Cell whose instance has an address and is not being terminated
// there is one session: a goroutine that dials until the agent listens, enrols
// it if that has not happened, serves the cell's gateway, and begins anew when
// the connection is lost, until the Cell ends. Sessions begin and end by
// Reconcile, so a restarted Kip takes all its cells up again from the Cells
// alone.
//
//	no address ─► waiting: dial side by side ─► enrol ─► connected ─► ended
//	                 ▲         (written to the Cell      │
//	                 │          before it is signed)     │ lost
//	                 └───────────────────────────────────┘
//
// Of the Cell this package writes status.enrolment, and nothing else.
package connection
