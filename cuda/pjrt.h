// What gotune uses of XLA's PJRT C API (pjrt_c_api.h of OpenXLA, Apache License
// 2.0): the places of functions in the plugin's table, and their arguments. Fields are
// only ever appended to the table and to the arguments, so these hold for every
// plugin that is new enough; attaching checks that it is.

#ifndef GOTUNE_PJRT_H
#define GOTUNE_PJRT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Offsets in PJRT_Api.
enum {
	GT_SIZE = 0,
	GT_MAJOR = 32,
	GT_ERROR_DESTROY = 40,
	GT_ERROR_MESSAGE = 48,
	GT_EVENT_DESTROY = 80,
	GT_EVENT_AWAIT = 104,
	GT_CLIENT_CREATE = 120,
	GT_CLIENT_PLATFORM_VERSION = 152,
	GT_CLIENT_ADDRESSABLE_DEVICES = 168,
	GT_CLIENT_COMPILE = 200,
	GT_DEVICE_DESCRIPTION_KIND = 248,
	GT_DEVICE_GET_DESCRIPTION = 272,
	GT_DEVICE_ADDRESSABLE_MEMORIES = 296,
	GT_DEVICE_MEMORY_STATS = 312,
	GT_MEMORY_KIND = 328,
	GT_EXECUTABLE_DESTROY = 360,
	GT_EXECUTABLE_SERIALIZE = 432,
	GT_LOADED_DESTROY = 440,
	GT_LOADED_GET_EXECUTABLE = 448,
	GT_LOADED_EXECUTE = 480,
	GT_DESERIALIZE_AND_LOAD = 488,
	GT_BUFFER_COPY_TO_DEVICE = 592,
	GT_BUFFER_READY_EVENT = 616,
	GT_BUFFER_COPY_TO_MEMORY = 776,
	GT_COMPILED_MEMORY_STATS = 808,
	GT_TABLE_MIN = 816
};

// Arguments. The room behind the last field that is known here stays zero, as a newer
// plugin expects of a caller that does not use a newer field.
#define GT_HEAD size_t size; void *extension
#define GT_ROOM char room[128]

typedef struct { GT_HEAD; char *code; size_t code_size; const char *format; size_t format_size; } gt_program;
typedef struct { GT_HEAD; void *client; const gt_program *program; const char *options; size_t options_size; void *loaded; } gt_compile_args;
typedef struct { GT_HEAD; const void *executable; const char *bytes; size_t bytes_size; void *backing; void (*free)(void *); GT_ROOM; } gt_serialize_args;
typedef struct { GT_HEAD; void *client; const char *bytes; size_t bytes_size; void *loaded; const char *options; size_t options_size; GT_ROOM; } gt_load_args;
typedef struct { GT_HEAD; void *loaded; void *executable; GT_ROOM; } gt_get_executable_args;
typedef struct { GT_HEAD; const void *error; const char *text; size_t text_size; GT_ROOM; } gt_error_args;
typedef struct { GT_HEAD; void *object; const char *text; size_t text_size; GT_ROOM; } gt_text_args; // PlatformVersion, Kind
typedef struct { GT_HEAD; void *object; void *const *list; size_t n; GT_ROOM; } gt_list_args;        // AddressableDevices, AddressableMemories
typedef struct { GT_HEAD; void *in; void *out; GT_ROOM; } gt_get_args;                               // GetDescription, ReadyEvent, Await, Destroy
typedef struct { GT_HEAD; void *buffer; void *to; void *copy; GT_ROOM; } gt_copy_args;               // CopyToDevice, CopyToMemory

typedef struct {
	GT_HEAD;
	void *executable;
	int64_t code, argument, output, alias, temp;
	int64_t host_code, host_argument, host_output, host_alias, host_temp;
	int64_t peak, total, total_allocation, indefinite, peak_unpadded;
	GT_ROOM;
} gt_compiled_stats;

typedef struct {
	GT_HEAD;
	void *device;
	int64_t in_use, peak_in_use;
	bool peak_in_use_set;
	int64_t allocs;
	bool allocs_set;
	int64_t largest;
	bool largest_set;
	int64_t limit;
	bool limit_set;
	int64_t reserved;
	bool reserved_set;
	int64_t peak_reserved;
	bool peak_reserved_set;
	int64_t reservable;
	bool reservable_set;
	int64_t largest_free;
	bool largest_free_set;
	int64_t pool;
	bool pool_set;
	int64_t peak_pool;
	bool peak_pool_set;
	GT_ROOM;
} gt_memory_stats;

// One attached plugin.
enum { GT_TABLES = 4 };

typedef void *(*gt_fn)(void *args);

typedef struct {
	char *api;
	gt_fn execute, compile, create, copy; // the plugin's own; NULL while the table has them still
	void *client, *device;                // of the last client made
	void *host;                           // its pinned host memory, NULL if it has none
} gt_table;

int gt_attach(const char *path, bool only_if_loaded); // index, or a negative number
int gt_queue(int table);
void gt_await(int yes);
void *gt_call(int table, int place, void *args);
gt_table *gt_at(int table);
void gt_error_text(int table, void *error, char *text, size_t n); // destroys error

// gt_copies says what becomes of this thread's copies of buffers to a device until it is
// called again: nothing, or they go to the device's pinned host memory instead, or they
// are only noted. It returns the event of the last copy since it was called before, to be
// awaited and destroyed, NULL without one.
enum { GT_COPIES_PLAIN, GT_COPIES_TO_HOST, GT_COPIES_NOTED };
void *gt_copies(int what);

void *gt_compile_real(int table, gt_compile_args *args);

#endif
