/* The device of cuda_runtime.h: blocks, memory, streams.
 *
 * A thread of a block is a context with a stack of its own; contexts are made once and serve block after block. One that must wait
 * goes back to `run_block`, which lets the lanes of a warp go on until all of them wait for the block, then the next warp. */
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#include "cuda/ptx.cuh"

extern "C" {
#include "ops.h"
}

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
char *emulated_shared;

namespace {

constexpr size_t THREADS = 1024, STACK = 256 << 10, DEFAULT_SHARED = 48 << 10, PAGE = 4096;

struct copy {
    char *to, bytes[16];
    unsigned n;
};

struct thread {
    void *at[5]; /* for __builtin_setjmp */
    bool running, at_barrier;
    uint64_t turn; /* the warp's or the block's, whose end it waits for; UINT64_MAX: none */
    std::vector<copy> copies;
    std::vector<size_t> groups; /* copies in each, oldest first; those behind belong to none yet */
};

struct warp {
    emulated_words left[2]; /* by turns */
    emulated_op op;
    unsigned lanes, arrived;
    uint64_t turn; /* meetings before */
};

thread threads[THREADS];
warp warps[THREADS / 32];
thread *current;
unsigned running, waiting, votes, last_votes;
uint64_t turn; /* barriers that the block has passed */
void *scheduler[5];
const std::function<void()> *body;

std::mutex one_launch;
uint64_t launches;

} // namespace

void emulated_fail(const char *what) {
    fprintf(stderr, "emulated GPU: block %u,%u,%u of %u,%u,%u, thread %u of %u: %s\n", blockIdx.x, blockIdx.y, blockIdx.z,
            gridDim.x, gridDim.y, gridDim.z, threadIdx.x, blockDim.x, what);
    abort();
}

/* ---- contexts ---- */

static bool may_run(unsigned i) {
    const thread *t = &threads[i];
    return t->running && t->turn != (t->at_barrier ? turn : warps[i / 32].turn);
}

/* A lane of the warp that may run: the first from i + 1 on, round to i; UINT32_MAX: none. */
static unsigned next_lane(unsigned i) {
    for (unsigned k = 1; k <= 32; k++)
        if (unsigned j = i / 32 * 32 + (i + k) % 32; may_run(j)) return j;
    return UINT32_MAX;
}

/* Functions of their own: one that has called __builtin_setjmp must not itself jump there, and no caller may think that these keep
 * a register. */
[[noreturn]] static __attribute__((noipa)) void jump(void **to) { __builtin_longjmp(to, 1); }

/* Where a lane goes on: its context. UINT32_MAX: the block's. */
static void **context(unsigned lane) {
    if (lane == UINT32_MAX) return scheduler;
    current = &threads[lane];
    current->at_barrier = false, current->turn = UINT64_MAX;
    threadIdx = { lane, 0, 0 };
    return current->at;
}

static __attribute__((noipa)) void leave_to(unsigned lane) {
    if (!__builtin_setjmp(current->at)) jump(context(lane));
}
static void leave() { leave_to(next_lane(threadIdx.x)); }

/* Lets the lanes of a warp run until each waits for the block or is done, from this one on. */
static __attribute__((noipa)) void enter(unsigned lane) {
    if (!__builtin_setjmp(scheduler)) jump(context(lane));
}

static void live() {
    leave_to(UINT32_MAX);
    for (;;) {
        (*body)();
        current->running = false;
        running--;
        leave();
    }
}

static void make_threads() {
    static ucontext_t first;
    for (size_t i = 0; i < THREADS; i++) {
        void *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stack == MAP_FAILED) emulated_fail("no memory for threads");
        mprotect(stack, PAGE, PROT_NONE);
        getcontext(&first);
        first.uc_stack = { .ss_sp = stack, .ss_flags = 0, .ss_size = STACK };
        makecontext(&first, live, 0);
        current = &threads[i];
        if (!__builtin_setjmp(scheduler)) setcontext(&first);
    }
}

/* ---- waiting ---- */

uint32_t *emulated_place_of_lane() {
    warp *w = &warps[threadIdx.x / 32];
    return w->left[w->turn % 2][threadIdx.x % 32];
}

const emulated_words &emulated_meet(emulated_op op, unsigned lanes, void (*at_last)(emulated_words &)) {
    warp *w = &warps[threadIdx.x / 32];
    uint64_t mine = w->turn;
    if (!w->arrived) w->op = op, w->lanes = lanes;
    w->arrived |= 1u << threadIdx.x % 32;
    if (w->op != op || w->lanes != lanes || (w->arrived & ~lanes)) emulated_fail("the lanes of a warp do not do the same");
    if (w->arrived == lanes) {
        if (at_last) at_last(w->left[mine % 2]);
        w->arrived = 0;
        w->turn++;
    } else {
        current->turn = mine;
        leave();
    }
    return w->left[mine % 2];
}

int emulated_barrier(bool yes) {
    votes += yes;
    waiting++;
    current->at_barrier = true;
    current->turn = turn;
    leave();
    return (int)last_votes;
}

static void run_block(bool backwards) {
    unsigned n = blockDim.x, n_warps = n / 32;
    for (unsigned i = 0; i < n; i++) {
        threads[i].running = true, threads[i].at_barrier = false;
        threads[i].turn = UINT64_MAX;
        threads[i].copies.clear(), threads[i].groups.clear();
    }
    for (unsigned w = 0; w < n_warps; w++) warps[w].arrived = 0, warps[w].turn = 0;
    running = n, waiting = votes = 0;
    while (running) {
        bool any = false;
        for (unsigned i = 0; i < n_warps; i++) {
            unsigned first = next_lane((backwards ? n_warps - 1 - i : i) * 32 + 31);
            if (first != UINT32_MAX) enter(first), any = true;
        }
        if (waiting && waiting == running) {
            last_votes = votes;
            waiting = votes = 0;
            turn++;
        } else if (!any && running) {
            emulated_fail("threads wait for others that do not come");
        }
    }
}

/* All lanes' rows at once: a lane that goes on may write where another has still to read. */
static void load(emulated_words &lanes, bool turned) {
    uint16_t rows[32][8];
    for (unsigned lane = 0; lane < 32; lane++) memcpy(rows[lane], emulated_place(lanes[lane][0], 16), 16);
    for (unsigned lane = 0; lane < 32; lane++)
        for (unsigned m = 0; m < 4; m++)
            for (unsigned i = 0; i < 2; i++) {
                unsigned row = lane / 4, column = lane % 4 * 2 + i;
                uint16_t value = turned ? rows[8 * m + column][row] : rows[8 * m + row][column];
                memcpy((char *)&lanes[lane][m] + 2 * i, &value, 2);
            }
}
void emulated_load(emulated_words &lanes) { load(lanes, false); }
void emulated_load_turned(emulated_words &lanes) { load(lanes, true); }

/* a [16, 16], b [16, 8], as tensor_multiply says which lane holds what. */
void emulated_multiply(emulated_words &lanes) {
    float a[16][16], b[16][8], c[16][8] = {};
    auto low = [](uint32_t pair) { return __uint_as_float(pair << 16); };
    auto high = [](uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); };
    for (unsigned lane = 0; lane < 32; lane++) {
        unsigned g = lane / 4, t = lane % 4 * 2;
        for (unsigned i = 0; i < 4; i++) {
            float *to = &a[g + i % 2 * 8][t + i / 2 * 8];
            to[0] = low(lanes[lane][i]), to[1] = high(lanes[lane][i]);
        }
        for (unsigned i = 0; i < 2; i++) b[t + i * 8][g] = low(lanes[lane][4 + i]), b[t + i * 8 + 1][g] = high(lanes[lane][4 + i]);
    }
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < 16; k++)
            for (unsigned j = 0; j < 8; j++) c[i][j] += a[i][k] * b[k][j];
    for (unsigned lane = 0; lane < 32; lane++) {
        const float *from = &c[lane / 4][lane % 4 * 2];
        memcpy(&lanes[lane][0], from, 8);
        memcpy(&lanes[lane][2], from + 8 * 8, 8);
    }
}

/* ---- shared memory ---- */

static char *shared_end; /* behind it no byte can be reached */

static void make_shared() {
    size_t bytes = (EMULATED_SHARED + PAGE - 1) / PAGE * PAGE;
    char *p = (char *)mmap(NULL, bytes + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) emulated_fail("no shared memory");
    shared_end = p + bytes;
    mprotect(shared_end, PAGE, PROT_NONE);
}

char *emulated_place(uint32_t address, unsigned bytes) {
    char *p = emulated_shared + address;
    if (address % bytes) emulated_fail("an address of shared memory that is not aligned");
    if (address > EMULATED_SHARED || p + bytes > shared_end) emulated_fail("an address behind the block's shared memory");
    return p;
}

void emulated_copy(uint32_t to, const void *from, unsigned bytes, bool there) {
    copy c = { emulated_place(to, bytes), {}, bytes };
    if ((uintptr_t)from % bytes) emulated_fail("a copy from an address that is not aligned");
    if (there) memcpy(c.bytes, from, bytes);
    memset(c.to, 0xff, bytes);
    current->copies.push_back(c);
}

static size_t grouped() {
    size_t n = 0;
    for (size_t group : current->groups) n += group;
    return n;
}

void emulated_copy_group() { current->groups.push_back(current->copies.size() - grouped()); }

void emulated_copy_wait(int groups) {
    std::vector<copy> &copies = current->copies;
    while (current->groups.size() > (size_t)groups) {
        size_t n = current->groups.front();
        for (size_t i = 0; i < n; i++) memcpy(copies[i].to, copies[i].bytes, copies[i].n);
        copies.erase(copies.begin(), copies.begin() + (ptrdiff_t)n);
        current->groups.erase(current->groups.begin());
    }
}

/* ---- launches and streams ---- */

struct emulated_graph {
    std::vector<std::function<void()>> work;
};
struct emulated_stream {
    emulated_graph *captured; /* NULL: what comes is done at once */
};

static std::map<const void *, size_t> &allowed() {
    static std::map<const void *, size_t> bytes;
    return bytes;
}

static void run_grid(dim3 grid, dim3 block, size_t shared, const std::function<void()> &thread) {
    std::lock_guard<std::mutex> lock(one_launch);
    if (!shared_end) make_threads(), make_shared();
    bool backwards = launches++ % 2;
    gridDim = grid, blockDim = block;
    body = &thread;
    emulated_shared = shared_end - (shared + 127) / 128 * 128;
    size_t n = (size_t)grid.x * grid.y * grid.z;
    for (size_t i = 0; i < n; i++) {
        size_t b = backwards ? n - 1 - i : i;
        blockIdx = { (unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y) };
        memset(emulated_shared, 0xff, (size_t)(shared_end - emulated_shared));
        run_block(backwards);
    }
}

cudaError_t emulated_allow_shared(const void *kernel, int bytes) {
    std::lock_guard<std::mutex> lock(one_launch);
    if (bytes < 0 || bytes > EMULATED_SHARED) return cudaErrorInvalidValue;
    allowed()[kernel] = (size_t)bytes;
    return cudaSuccess;
}

static cudaError_t submit(cudaStream_t stream, std::function<void()> work) {
    if (stream && stream != cudaStreamLegacy && stream->captured) stream->captured->work.push_back(std::move(work));
    else work();
    return cudaSuccess;
}

cudaError_t emulated_launch(const void *kernel, const cudaLaunchConfig_t *config, std::function<void()> thread) {
    dim3 grid = config->gridDim, block = config->blockDim;
    size_t shared = config->dynamicSmemBytes;
    {
        std::lock_guard<std::mutex> lock(one_launch);
        size_t most = allowed().count(kernel) ? allowed()[kernel] : DEFAULT_SHARED;
        if (block.x % 32 || block.y != 1 || block.z != 1) return cudaErrorNotSupported; /* all lanes are there */
        if (shared > most || !block.x || block.x > THREADS) return cudaErrorInvalidValue;
        if (!grid.x || !grid.y || !grid.z || grid.x > INT32_MAX || grid.y > 65535 || grid.z > 65535) return cudaErrorInvalidValue;
    }
    return submit(config->stream, [=] { run_grid(grid, block, shared, thread); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = new emulated_stream{};
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    return stream && stream != cudaStreamLegacy && stream->captured ? cudaErrorNotSupported : cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    stream->captured = new emulated_graph;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = stream->captured;
    stream->captured = NULL;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new emulated_graph(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t) {
    for (const std::function<void()> &work : exec->work) work();
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return cudaGraphDestroy(exec); }

struct emulated_event {
    std::chrono::steady_clock::time_point at;
};
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new emulated_event{};
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    event->at = std::chrono::steady_clock::now();
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end) {
    *ms = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
    return cudaSuccess;
}

/* ---- memory ---- */

static size_t pages(size_t bytes) { return (bytes + PAGE - 1) / PAGE * PAGE; }

static std::map<void *, size_t> &allocations() {
    static std::map<void *, size_t> bytes;
    return bytes;
}

/* Its end lies before a page that cannot be reached, but for what aligns its beginning. */
cudaError_t cudaMalloc(void **p, size_t bytes) {
    std::lock_guard<std::mutex> lock(one_launch);
    *p = NULL;
    if (bytes > (size_t)1 << 40) return cudaErrorMemoryAllocation;
    char *at = (char *)mmap(NULL, pages(bytes) + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) return cudaErrorMemoryAllocation;
    mprotect(at + pages(bytes), PAGE, PROT_NONE);
    *p = at + pages(bytes) - (bytes + 15) / 16 * 16;
    allocations()[*p] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    std::lock_guard<std::mutex> lock(one_launch);
    if (!p) return cudaSuccess;
    auto found = allocations().find(p);
    if (found == allocations().end()) return cudaErrorInvalidValue;
    munmap((void *)((uintptr_t)p / PAGE * PAGE), pages(found->second) + PAGE);
    allocations().erase(found);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned) {
    return (*p = calloc(1, bytes)) ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total) {
    *free_bytes = *total = (size_t)1 << 30;
    return cudaSuccess;
}
cudaError_t cudaMemset(void *p, int value, size_t bytes) {
    uintptr_t first = pages((uintptr_t)p), end = ((uintptr_t)p + bytes) / PAGE * PAGE;
    if (!value && end > first && !madvise((void *)first, end - first, MADV_DONTNEED)) { /* zeros that take no memory */
        memset(p, 0, first - (uintptr_t)p);
        memset((void *)end, 0, (uintptr_t)p + bytes - end);
    } else {
        memset(p, value, bytes);
    }
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    return submit(stream, [=] { cudaMemset(p, value, bytes); });
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    return submit(stream, [=] { memmove(to, from, bytes); });
}

/* ---- the device ---- */

double normcdfinv(double p) { return shk_normal_quantile(p); }

cudaError_t cudaGetLastError() { return cudaSuccess; }
const char *cudaGetErrorString(cudaError_t e) {
    switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNotSupported: return "not supported";
    default: return "invalid argument";
    }
}
cudaError_t cudaGetDeviceCount(int *n) {
    *n = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int) {
    *p = { "emulated GPU", 4, 9, 0, EMULATED_SHARED };
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = 12000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) { return cudaDriverGetVersion(version); }
