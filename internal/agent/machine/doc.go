// Package machine is what the agent does as the first process of a cell: mounts
// that containers need, the loopback, and the orderly end of the machine.
//
// The same binary is PID 1 of a container cell, where the sandbox has prepared
// most of this, of Kip's own image, where nothing has, and a service on a stock
// image, where all of it is somebody else's business. So everything here looks
// first and then does what is missing, and IsInit says whether to begin at all.
package machine
