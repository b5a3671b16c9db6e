package gotune

// fionread asks for the number of unread bytes of a pipe.
const fionread = 0x541b
