// SPDX-License-Identifier: MIT OR Apache-2.0

// A program in Go over libibverbs: several goroutines, each with a device of its own.
package main

/*
#cgo LDFLAGS: -libverbs
#include "../loopback.h"
#include <stdint.h>

static const char *open_linked(struct loopback *l, uint32_t half)
{
#define LINKED(result, name, arguments, version) .name = name,
	static const struct verbs verbs = { VERBS(LINKED) };
	return loopback_open(l, &verbs, half);
}
*/
import "C"

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"unsafe"
)

const (
	half       = 5000
	goroutines = 8
	rounds     = 200
)

func traffic(number int) error {
	loopback := (*C.struct_loopback)(C.calloc(1, C.sizeof_struct_loopback))
	defer C.free(unsafe.Pointer(loopback))
	if failed := C.open_linked(loopback, half); failed != nil {
		return fmt.Errorf("%s", C.GoString(failed))
	}
	memory := unsafe.Slice((*byte)(loopback.memory), 2*half)
	for round := 0; round < rounds; round++ {
		for i := range memory[:half] {
			memory[i] = byte(i*7 + round + number)
		}
		if failed := C.loopback_send(loopback); failed != nil {
			return fmt.Errorf("%s", C.GoString(failed))
		}
		if !bytes.Equal(memory[:half], memory[half:]) {
			return fmt.Errorf("a message is not what was sent")
		}
	}
	if failed := C.loopback_close(loopback); failed != nil {
		return fmt.Errorf("%s", C.GoString(failed))
	}
	return nil
}

func main() {
	var all sync.WaitGroup
	for number := 0; number < goroutines; number++ {
		all.Add(1)
		go func(number int) {
			defer all.Done()
			if err := traffic(number); err != nil {
				fmt.Fprintln(os.Stderr, "failed:", err)
				os.Exit(1)
			}
		}(number)
	}
	all.Wait()
	fmt.Printf("%d messages, every byte right\n", goroutines*rounds)
}
