#include "pjrt.h"
#include "_cgo_export.h"
#include <dlfcn.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static gt_table tables[GT_TABLES];
static int awaited;
static __thread int copies;
static __thread void *arrival; // event of this thread's last copy

gt_table *gt_at(int i) { return &tables[i]; }

static gt_fn at(int i, int place) { return *(gt_fn *)(tables[i].api + place); }

void *gt_call(int i, int place, void *args) { return at(i, place)(args); }

// execute asks for no completion events unless calls are to be awaited. The caller
// waits for those that it gets, so without it goes on at once.
static void *execute(int i, void *args) {
	enum { events = 64 }; // PJRT_LoadedExecutable_Execute_Args.device_complete_events
	if (!__atomic_load_n(&awaited, __ATOMIC_RELAXED)) *(void **)((char *)args + events) = NULL;
	return tables[i].execute(args);
}

// create notes the client, its first device and that one's pinned host memory.
static void *create(int i, void *args) {
	enum { client = 64 }; // PJRT_Client_Create_Args.client
	void *err = tables[i].create(args);
	if (err) return err;
	gt_table *t = &tables[i];
	t->client = *(void **)((char *)args + client);
	t->device = t->host = NULL;
	gt_list_args devices = {.size = sizeof devices, .object = t->client};
	void *e = gt_call(i, GT_CLIENT_ADDRESSABLE_DEVICES, &devices);
	if (e || !devices.n) {
		if (e) gt_error_text(i, e, NULL, 0);
		return NULL;
	}
	t->device = devices.list[0];
	gt_list_args memories = {.size = sizeof memories, .object = t->device};
	if ((e = gt_call(i, GT_DEVICE_ADDRESSABLE_MEMORIES, &memories))) {
		gt_error_text(i, e, NULL, 0);
		return NULL;
	}
	for (size_t k = 0; k < memories.n; k++) {
		gt_text_args kind = {.size = sizeof kind, .object = memories.list[k]};
		if ((e = gt_call(i, GT_MEMORY_KIND, &kind))) {
			gt_error_text(i, e, NULL, 0);
		} else if (kind.text_size == 11 && !memcmp(kind.text, "pinned_host", 11)) {
			t->host = memories.list[k];
		}
	}
	return NULL;
}

void *gt_copies(int what) {
	void *e = arrival;
	copies = what;
	arrival = NULL;
	return e;
}

// copy takes a buffer to a device, or to pinned host memory where this thread asked
// for that, and notes when it is there.
static void *copy(int i, void *args) {
	gt_copy_args *a = args;
	if (copies == GT_COPIES_PLAIN) return tables[i].copy(args);
	void *err;
	if (copies == GT_COPIES_TO_HOST) {
		gt_copy_args b = {.size = sizeof b, .buffer = a->buffer, .to = tables[i].host};
		err = gt_call(i, GT_BUFFER_COPY_TO_MEMORY, &b);
		a->copy = b.copy;
	} else {
		err = tables[i].copy(args);
	}
	if (err) return err;
	gt_get_args ready = {.size = sizeof ready, .in = a->copy};
	if (!(err = gt_call(i, GT_BUFFER_READY_EVENT, &ready))) arrival = ready.out;
	return err;
}

#define ENTRIES(i) \
	static void *execute_##i(void *a) { return execute(i, a); } \
	static void *create_##i(void *a) { return create(i, a); } \
	static void *copy_##i(void *a) { return copy(i, a); } \
	static void *compile_##i(void *a) { return gtCompile(i, a); }
ENTRIES(0)
ENTRIES(1)
ENTRIES(2)
ENTRIES(3)

static const struct { gt_fn execute, create, copy, compile; } entries[GT_TABLES] = {
	{execute_0, create_0, copy_0, compile_0},
	{execute_1, create_1, copy_1, compile_1},
	{execute_2, create_2, copy_2, compile_2},
	{execute_3, create_3, copy_3, compile_3},
};

// replace puts f into the table and the entry that was there into was.
static int replace(int i, int place, gt_fn f, gt_fn *was) {
	if (*was) return 0;
	gt_fn *slot = (gt_fn *)(tables[i].api + place);
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)slot & ~(page - 1);
	uintptr_t to = ((uintptr_t)(slot + 1) + page - 1) & ~(page - 1);
	if (mprotect((void *)from, to - from, PROT_READ | PROT_WRITE)) return -1;
	*was = *slot;
	*slot = f;
	return 0;
}

int gt_attach(const char *path, bool only_if_loaded) {
	// The handle is kept: the table must not go away.
	void *h = dlopen(path, RTLD_LAZY | RTLD_LOCAL | (only_if_loaded ? RTLD_NOLOAD : 0));
	if (!h) return -1;
	void *(*get)(void) = (void *(*)(void))dlsym(h, "GetPjrtApi");
	char *api = get ? get() : NULL;
	if (!api) return -2;
	int i = 0;
	while (i < GT_TABLES && tables[i].api && tables[i].api != api) i++;
	if (i == GT_TABLES) return -3;
	if (tables[i].api) return i;
	if (*(size_t *)(api + GT_SIZE) < GT_TABLE_MIN || *(int *)(api + GT_MAJOR) != 0) return -4;
	tables[i].api = api;
	if (replace(i, GT_CLIENT_CREATE, entries[i].create, &tables[i].create) ||
		replace(i, GT_BUFFER_COPY_TO_DEVICE, entries[i].copy, &tables[i].copy) ||
		replace(i, GT_CLIENT_COMPILE, entries[i].compile, &tables[i].compile)) return -5;
	return i;
}

int gt_queue(int i) { return replace(i, GT_LOADED_EXECUTE, entries[i].execute, &tables[i].execute); }

void gt_await(int yes) { __atomic_store_n(&awaited, yes, __ATOMIC_RELAXED); }

void *gt_compile_real(int i, gt_compile_args *args) { return tables[i].compile(args); }

void gt_error_text(int i, void *error, char *text, size_t n) {
	gt_error_args a = {.size = sizeof a, .error = error};
	if (n) {
		gt_call(i, GT_ERROR_MESSAGE, &a);
		size_t len = a.text_size < n - 1 ? a.text_size : n - 1;
		if (a.text) memcpy(text, a.text, len);
		text[a.text ? len : 0] = 0;
	}
	gt_error_args d = {.size = sizeof d, .error = error};
	gt_call(i, GT_ERROR_DESTROY, &d);
}
