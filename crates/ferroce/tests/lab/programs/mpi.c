// SPDX-License-Identifier: MIT OR Apache-2.0
// An MPI program that checks every byte: point to point, collectives, one-sided. Exits with 1 at the first
// that is wrong.
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static int rank, ranks;

static void check(int holds, const char *what, long at)
{
	if (holds)
		return;
	fprintf(stderr, "rank %d: %s, at %ld\n", rank, what, at);
	MPI_Abort(MPI_COMM_WORLD, 1);
}

static uint32_t value(int of, int round, long at)
{
	return (uint32_t)(of * 0x9e3779b9u + round * 0x85ebca6bu + at);
}

static void ring(long words, int round)
{
	uint32_t *out = malloc(words * 4), *in = malloc(words * 4);
	int next = (rank + 1) % ranks, before = (rank + ranks - 1) % ranks;
	for (long i = 0; i < words; i++)
		out[i] = value(rank, round, i);
	MPI_Request requests[2];
	MPI_Irecv(in, words, MPI_UINT32_T, before, round, MPI_COMM_WORLD, &requests[0]);
	MPI_Isend(out, words, MPI_UINT32_T, next, round, MPI_COMM_WORLD, &requests[1]);
	MPI_Waitall(2, requests, MPI_STATUSES_IGNORE);
	for (long i = 0; i < words; i++)
		check(in[i] == value(before, round, i), "a message differs", i);
	free(out);
	free(in);
}

static void collectives(long words, int round)
{
	uint32_t *one = malloc(words * 4), *sum = malloc(words * 4);
	uint32_t *out = malloc(words * ranks * 4), *in = malloc(words * ranks * 4);
	for (long i = 0; i < words; i++)
		one[i] = value(rank, round, i);
	MPI_Allreduce(one, sum, words, MPI_UINT32_T, MPI_SUM, MPI_COMM_WORLD);
	for (long i = 0; i < words; i++) {
		uint32_t expected = 0;
		for (int r = 0; r < ranks; r++)
			expected += value(r, round, i);
		check(sum[i] == expected, "a sum differs", i);
	}
	for (long i = 0; i < words * ranks; i++)
		out[i] = value(rank, round, i);
	MPI_Alltoall(out, words, MPI_UINT32_T, in, words, MPI_UINT32_T, MPI_COMM_WORLD);
	for (int r = 0; r < ranks; r++)
		for (long i = 0; i < words; i++)
			check(in[r * words + i] == value(r, round, rank * words + i), "all to all differs", i);
	MPI_Bcast(one, words, MPI_UINT32_T, round % ranks, MPI_COMM_WORLD);
	for (long i = 0; i < words; i++)
		check(one[i] == value(round % ranks, round, i), "a broadcast differs", i);
	free(one);
	free(sum);
	free(out);
	free(in);
}

static void one_sided(long words, int round)
{
	uint32_t *shared, *out = malloc(words * 4), *in = malloc(words * 4);
	int next = (rank + 1) % ranks, before = (rank + ranks - 1) % ranks;
	int64_t *counter, one = 1, got;
	MPI_Win window, counters;
	MPI_Win_allocate(words * 4, 4, MPI_INFO_NULL, MPI_COMM_WORLD, &shared, &window);
	MPI_Win_allocate(8, 8, MPI_INFO_NULL, MPI_COMM_WORLD, &counter, &counters);
	*counter = 0;
	for (long i = 0; i < words; i++)
		out[i] = value(rank, round, i);
	MPI_Win_fence(0, window);
	MPI_Put(out, words, MPI_UINT32_T, next, 0, words, MPI_UINT32_T, window);
	MPI_Win_fence(0, window);
	for (long i = 0; i < words; i++)
		check(shared[i] == value(before, round, i), "what was put differs", i);
	MPI_Win_fence(0, window);
	MPI_Get(in, words, MPI_UINT32_T, next, 0, words, MPI_UINT32_T, window);
	MPI_Win_fence(0, window);
	for (long i = 0; i < words; i++)
		check(in[i] == value(rank, round, i), "what was got differs", i);
	MPI_Barrier(MPI_COMM_WORLD);
	MPI_Win_lock_all(0, counters);
	for (int i = 0; i < 50; i++) {
		MPI_Fetch_and_op(&one, &got, MPI_INT64_T, 0, 0, MPI_SUM, counters);
		MPI_Win_flush(0, counters);
	}
	MPI_Win_unlock_all(counters);
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0) {
		MPI_Win_lock(MPI_LOCK_SHARED, 0, 0, counters);
		check(*counter == 50L * ranks, "an atomic was lost", *counter);
		MPI_Win_unlock(0, counters);
	}
	MPI_Win_free(&window);
	MPI_Win_free(&counters);
	free(out);
	free(in);
}

int main(int argc, char **argv)
{
	static const long sizes[] = { 1, 250, 2048, 16384, 262144 };
	int rounds = argc > 1 ? atoi(argv[1]) : 1;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &ranks);
	for (int round = 0; round < rounds; round++)
		for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
			ring(sizes[i], round);
			collectives(sizes[i] / 4 + 1, round);
			one_sided(sizes[i], round);
		}
	MPI_Barrier(MPI_COMM_WORLD);
	if (rank == 0)
		printf("%d ranks, every byte right\n", ranks);
	MPI_Finalize();
	return 0;
}
