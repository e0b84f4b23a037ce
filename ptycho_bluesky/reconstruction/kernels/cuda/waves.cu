// Operations on the waves of a batch of frames; kernels/_waves.py says what each one computes, kernels/_cuda.py calls them.
//
// Shapes: obj (Y, X); probes (G, M, H, W); waves (B, M, H, W); groups (B,), corners (B, 2) in 64 bits; all in C order.
// `width` is X, `modes` M, `size` H = W. A frame with a group or a row below 0 only fills up its batch: its waves are
// zero and it takes part in nothing. Nothing is included, so that NVRTC compiles it on any machine; threads of a block
// meet at __syncthreads alone, so that the same text also runs on a CPU, where the tests hold it to float64.

#define BLOCK 256
#define CHUNK 32

typedef long long Number;

__device__ inline float power(float2 a) { return a.x * a.x + a.y * a.y; }

__device__ inline float2 times(float2 a, float2 b) { return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }

// conj(a) * b
__device__ inline float2 conj_times(float2 a, float2 b) {
    return make_float2(a.x * b.x + a.y * b.y, a.x * b.y - a.y * b.x);
}

__device__ inline void add_atomically(float2 *sum, float2 a) {
    atomicAdd(&sum->x, a.x);
    atomicAdd(&sum->y, a.y);
}

// A block works on BLOCK neighbouring pixels of one frame.
struct Place {
    int frame, pixel;
    bool inside;
};

__device__ inline Place place_of_thread(int pixels) {
    int parts = (pixels + BLOCK - 1) / BLOCK;
    int pixel = (blockIdx.x % parts) * BLOCK + threadIdx.x;
    return {(int)(blockIdx.x / parts), pixel, pixel < pixels};
}

__device__ inline Number object_pixel(const Number *corners, int frame, int pixel, int size, int width) {
    return (corners[2 * frame] + pixel / size) * width + corners[2 * frame + 1] + pixel % size;
}

// Sum over the threads of a block, all of which must call it; the first one gets it.
__device__ inline float block_sum(float value) {
    __shared__ float shared[BLOCK];
    shared[threadIdx.x] = value;
    for (unsigned half = BLOCK / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    float total = shared[0];
    __syncthreads();
    return total;
}

// The largest value of a block, none of them negative; the first thread gets it.
__device__ inline float block_max(float value) {
    __shared__ float shared[BLOCK];
    shared[threadIdx.x] = value;
    for (unsigned half = BLOCK / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] = fmaxf(shared[threadIdx.x], shared[threadIdx.x + half]);
    }
    float most = shared[0];
    __syncthreads();
    return most;
}

// The amplitude of a stored pixel, negative where it is bad.
struct Half {
    unsigned short bits;
};
struct Counts {
    unsigned short value;
};

__device__ inline float amplitude_of(float stored) { return stored; }

// A half's exponent and mantissa are those of a float 2^112 times smaller, subnormal numbers among them.
__device__ inline float amplitude_of(Half stored) {
    float size = __int_as_float((stored.bits & 0x7fff) << 13) * 5.192296858534828e33f;
    return stored.bits & 0x8000 ? -size : size;
}

__device__ inline float amplitude_of(Counts stored) { return stored.value == 65535 ? -1.0f : sqrtf((float)stored.value); }

// ---- from object and probe to the detector and back

extern "C" __global__ void exit_waves(const float2 *obj, const float2 *probes, const Number *groups,
                                      const Number *corners, float2 *waves, int width, int modes, int size) {
    int pixels = size * size;
    Place at = place_of_thread(pixels);
    if (!at.inside) return;
    Number group = groups[at.frame], first = (Number)at.frame * modes * pixels + at.pixel;
    float2 o = make_float2(0, 0);
    if (group >= 0) o = obj[object_pixel(corners, at.frame, at.pixel, size, width)];
    const float2 *probe = probes + (group < 0 ? 0 : group) * modes * pixels + at.pixel;
    for (int m = 0; m < modes; m++) waves[first + (Number)m * pixels] = times(probe[(Number)m * pixels], o);
}

// `rows` (B,) tells the row in `stored` of each frame; `errors` (B,) is added to. With transforms that are not
// normalised, `scale` = 1 / (H W) brings the intensity, and the waves after the transform back, to what they should be.
template <class Stored>
__device__ inline void project(float2 *waves, const Stored *stored, const Number *rows, const float *background,
                               double *errors, int modes, int pixels, float scale, int poisson) {
    Place at = place_of_thread(pixels);
    float off = 0;
    if (at.inside && rows[at.frame] >= 0) {
        float2 *wave = waves + (Number)at.frame * modes * pixels + at.pixel;
        float intensity = 0;
        for (int m = 0; m < modes; m++) intensity += power(wave[(Number)m * pixels]);
        intensity *= scale;
        float modulus = sqrtf(background ? intensity + background[at.pixel] : intensity);
        float amplitude = amplitude_of(stored[rows[at.frame] * pixels + at.pixel]);
        float ratio = 1;
        if (amplitude >= 0) {
            off = fabsf(modulus - amplitude);
            ratio = amplitude / (modulus + 1e-6f);
            if (poisson) ratio *= ratio;
        }
        ratio *= scale;
        for (int m = 0; m < modes; m++) {
            float2 *w = wave + (Number)m * pixels;
            *w = make_float2(w->x * ratio, w->y * ratio);
        }
    }
    off = block_sum(off);
    if (threadIdx.x == 0) atomicAdd(&errors[at.frame], (double)off);
}

extern "C" __global__ void project_float32(float2 *waves, const float *stored, const Number *rows,
                                           const float *background, double *errors, int modes, int pixels, float scale,
                                           int poisson) {
    project(waves, stored, rows, background, errors, modes, pixels, scale, poisson);
}

extern "C" __global__ void project_float16(float2 *waves, const Half *stored, const Number *rows,
                                           const float *background, double *errors, int modes, int pixels, float scale,
                                           int poisson) {
    project(waves, stored, rows, background, errors, modes, pixels, scale, poisson);
}

extern "C" __global__ void project_uint16(float2 *waves, const Counts *stored, const Number *rows,
                                          const float *background, double *errors, int modes, int pixels, float scale,
                                          int poisson) {
    project(waves, stored, rows, background, errors, modes, pixels, scale, poisson);
}

// ---- sums over frames

extern "C" __global__ void add_object(float2 *numerator, float *weight, const float2 *waves, const float2 *probes,
                                      const Number *groups, const Number *corners, int width, int modes, int size) {
    int pixels = size * size;
    Place at = place_of_thread(pixels);
    if (!at.inside || groups[at.frame] < 0) return;
    const float2 *wave = waves + (Number)at.frame * modes * pixels + at.pixel;
    const float2 *probe = probes + groups[at.frame] * modes * pixels + at.pixel;
    float2 sum = make_float2(0, 0);
    float light = 0;
    for (int m = 0; m < modes; m++) {
        float2 p = probe[(Number)m * pixels], part = conj_times(p, wave[(Number)m * pixels]);
        sum = make_float2(sum.x + part.x, sum.y + part.y);
        light += power(p);
    }
    Number to = object_pixel(corners, at.frame, at.pixel, size, width);
    add_atomically(&numerator[to], sum);
    atomicAdd(&weight[to], light);
}

// A thread has one pixel of one mode of one group, and CHUNK frames: blocks are chunk, then group, mode and pixel.
extern "C" __global__ void add_probe(float2 *numerator, float *weight, const float2 *waves, const float2 *obj,
                                     const Number *groups, const Number *corners, int frames, int width, int modes,
                                     int size) {
    int pixels = size * size, parts = (pixels + BLOCK - 1) / BLOCK, copies = gridDim.x / ((frames + CHUNK - 1) / CHUNK);
    int chunk = blockIdx.x / copies, mode = blockIdx.x % copies / parts % modes;
    int group = blockIdx.x % copies / parts / modes, pixel = blockIdx.x % parts * BLOCK + threadIdx.x;
    if (pixel >= pixels) return;
    float2 sum = make_float2(0, 0);
    float bright = 0;
    int last = (chunk + 1) * CHUNK < frames ? (chunk + 1) * CHUNK : frames;
    for (int b = chunk * CHUNK; b < last; b++) {
        if (groups[b] != group) continue;
        float2 o = obj[object_pixel(corners, b, pixel, size, width)];
        float2 part = conj_times(o, waves[((Number)b * modes + mode) * pixels + pixel]);
        sum = make_float2(sum.x + part.x, sum.y + part.y);
        bright += power(o);
    }
    if (bright == 0) return;
    add_atomically(&numerator[((Number)group * modes + mode) * pixels + pixel], sum);
    if (mode == 0) atomicAdd(&weight[(Number)group * pixels + pixel], bright);
}

// `sums` (B, 5): yy, xx, yx of the normal equations for a shift, and their right-hand side y, x.
extern "C" __global__ void add_shifts(float *sums, const float2 *waves, const float2 *obj, const float2 *probes,
                                      const Number *groups, const Number *corners, int height, int width, int modes,
                                      int size) {
    int pixels = size * size;
    Place at = place_of_thread(pixels);
    float parts[5] = {0, 0, 0, 0, 0};
    if (at.inside && groups[at.frame] >= 0) {
        Number row = corners[2 * at.frame] + at.pixel / size, column = corners[2 * at.frame + 1] + at.pixel % size;
        Number below = row + 1 < height ? row + 1 : row, above = row > 0 ? row - 1 : row;
        Number right = column + 1 < width ? column + 1 : column, left = column > 0 ? column - 1 : column;
        float2 a = obj[below * width + column], b = obj[above * width + column];
        float2 c = obj[row * width + right], d = obj[row * width + left];
        float2 y = make_float2((a.x - b.x) / 2, (a.y - b.y) / 2), x = make_float2((c.x - d.x) / 2, (c.y - d.y) / 2);
        const float2 *wave = waves + (Number)at.frame * modes * pixels + at.pixel;
        const float2 *probe = probes + groups[at.frame] * modes * pixels + at.pixel;
        float2 cross = make_float2(0, 0);
        float light = 0;
        for (int m = 0; m < modes; m++) {
            float2 p = probe[(Number)m * pixels], part = conj_times(p, wave[(Number)m * pixels]);
            cross = make_float2(cross.x + part.x, cross.y + part.y);
            light += power(p);
        }
        parts[0] = light * power(y);
        parts[1] = light * power(x);
        parts[2] = light * conj_times(y, x).x;
        parts[3] = conj_times(y, cross).x;
        parts[4] = conj_times(x, cross).x;
    }
    for (int i = 0; i < 5; i++) {
        float sum = block_sum(parts[i]);
        if (threadIdx.x == 0) atomicAdd(&sums[5 * at.frame + i], sum);
    }
}

// ---- rPIE of a batch, fused: see rpie_update in kernels/_batches.py
// `pace` (4,): step of the object, of the probe, alpha of the object, of the probe; `peak` (1,): brightest |P|^2.

// Make of projected waves what they differ by from the exit waves, and add up what moves the object.
extern "C" __global__ void subtract_exit_waves(float2 *waves, const float2 *obj, const float2 *probes,
                                               const Number *groups, const Number *corners, float2 *numerator,
                                               float *weight, float *peak, int width, int modes, int size) {
    int pixels = size * size;
    Place at = place_of_thread(pixels);
    float light = 0;
    if (at.inside && groups[at.frame] >= 0) {
        float2 *wave = waves + (Number)at.frame * modes * pixels + at.pixel;
        const float2 *probe = probes + groups[at.frame] * modes * pixels + at.pixel;
        Number there = object_pixel(corners, at.frame, at.pixel, size, width);
        float2 o = obj[there], sum = make_float2(0, 0);
        for (int m = 0; m < modes; m++) {
            float2 p = probe[(Number)m * pixels], exit = times(p, o), *w = wave + (Number)m * pixels;
            float2 difference = make_float2(w->x - exit.x, w->y - exit.y), part = conj_times(p, difference);
            *w = difference;
            sum = make_float2(sum.x + part.x, sum.y + part.y);
            light += power(p);
        }
        add_atomically(&numerator[there], sum);
        atomicAdd(&weight[there], light);
    }
    light = block_max(light);  // floats that are not negative have the order of their bits
    if (threadIdx.x == 0) atomicMax((int *)peak, __float_as_int(light));
}

// A thread has one pixel of one mode of one group, and all frames; the object must not have moved yet.
extern "C" __global__ void update_probe(float2 *probes, const float2 *differences, const float2 *obj,
                                        const Number *groups, const Number *corners, const float *pace, int frames,
                                        int width, int modes, int size) {
    int pixels = size * size, parts = (pixels + BLOCK - 1) / BLOCK;
    int mode = blockIdx.x / parts % modes, group = blockIdx.x / parts / modes;
    int pixel = blockIdx.x % parts * BLOCK + threadIdx.x;
    float step = pace[1], alpha = pace[3], bright = 0;
    if (pixel >= pixels || step == 0) return;
    float2 sum = make_float2(0, 0);
    for (int b = 0; b < frames; b++) {
        if (groups[b] != group) continue;
        float2 o = obj[object_pixel(corners, b, pixel, size, width)];
        float2 part = conj_times(o, differences[((Number)b * modes + mode) * pixels + pixel]);
        sum = make_float2(sum.x + part.x, sum.y + part.y);
        bright += power(o);
    }
    if (bright == 0) return;
    float factor = step / fmaxf((1 - alpha) * bright + alpha, bright);
    float2 *probe = &probes[((Number)group * modes + mode) * pixels + pixel];
    *probe = make_float2(probe->x + factor * sum.x, probe->y + factor * sum.y);
}

// Leaves numerator and weight empty for the next batch. A thread has one pixel of the object.
extern "C" __global__ void update_object(float2 *obj, float2 *numerator, float *weight, const float *peak,
                                         const float *pace, int pixels) {
    int i = blockIdx.x * BLOCK + threadIdx.x;
    if (i >= pixels || weight[i] == 0) return;
    float step = pace[0], alpha = pace[2];
    float factor = step / fmaxf((1 - alpha) * weight[i] + alpha * peak[0], weight[i] + 1e-30f);
    obj[i] = make_float2(obj[i].x + factor * numerator[i].x, obj[i].y + factor * numerator[i].y);
    numerator[i] = make_float2(0, 0);
    weight[i] = 0;
}
