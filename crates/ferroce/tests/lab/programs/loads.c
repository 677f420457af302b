// SPDX-License-Identifier: MIT OR Apache-2.0
/* A program that is not linked to libibverbs, and loads it as NCCL does: for itself alone, and each function by its
 * version. */
#define _GNU_SOURCE
#include "loopback.h"
#include <dlfcn.h>
#include <stdio.h>

#define FIND(result, name, arguments, version) \
	verbs.name = dlvsym(library, #name, version); \
	if (!verbs.name) { \
		fprintf(stderr, "no %s@%s\n", #name, version); \
		return 1; \
	}

int main(void)
{
	/* The first name is there for who builds programs. */
	void *library = dlopen("libibverbs.so", RTLD_NOW | RTLD_LOCAL);
	if (!library)
		library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	struct verbs verbs;
	VERBS(FIND)
	if (dlsym(RTLD_DEFAULT, "ibv_open_device")) {
		fprintf(stderr, "the library's functions are everybody's\n");
		return 1;
	}

	struct loopback loopback = { 0 };
	const char *failed = loopback_open(&loopback, &verbs, 10000);
	for (int round = 0; !failed && round < 100; round++) {
		memset(loopback.memory, round + 1, 10000);
		failed = loopback_send(&loopback);
		if (!failed && memcmp(loopback.memory, loopback.memory + 10000, 10000))
			failed = "a message is not what was sent";
	}
	if (!failed)
		failed = loopback_close(&loopback);
	if (failed) {
		fprintf(stderr, "failed: %s\n", failed);
		return 1;
	}
	printf("100 messages, every byte right\n");
	return 0;
}
