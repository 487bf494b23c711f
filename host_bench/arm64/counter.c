/* A QEMU plugin that counts the ARM64 instructions between two markers in a program.
 *
 *     hint #0x68      counting starts        (both are no-operations on every ARM64 processor)
 *     …
 *     hint #0x69      counting stops
 *
 * QEMU translates straight runs of instructions. At translation the plugin cuts each run at the markers and tallies its
 * instructions by kind; each execution of a piece adds that piece's tally. Only the thread that executed the start marker
 * is counted. At exit the totals are written as JSON:
 *
 *     qemu-aarch64 -plugin counter.so,out=counts.json program
 *     {"regions": 1, "instructions": 199, "loads": 40, "stores": 12, "dot": 64, "matmul": 0}
 *
 * An atomic read-modify-write is a load and a store; a prefetch and a barrier are neither. SVE is not decoded.
 *
 * This file declares the functions of QEMU's plugin interface (up to QEMU 8.2), so it needs only a C compiler.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

typedef void (*qemu_plugin_vcpu_tb_trans_cb_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*qemu_plugin_vcpu_udata_cb_t)(unsigned int vcpu, void *userdata);
typedef void (*qemu_plugin_udata_cb_t)(qemu_plugin_id_t, void *userdata);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, qemu_plugin_vcpu_tb_trans_cb_t);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, qemu_plugin_vcpu_udata_cb_t,
                                            enum qemu_plugin_cb_flags, void *userdata);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, qemu_plugin_udata_cb_t, void *userdata);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;

/* An instruction has a form if its bits under the mask are equal to the form's. */
struct form {
    uint32_t mask, bits;
};

static const struct form DOT[] = {
    {0x9FE0FC00, 0x0E809400}, /* SDOT, UDOT (vector) */
    {0x9FC0F400, 0x0F80E000}, /* SDOT, UDOT (by element) */
    {0xBFE0FC00, 0x0E809C00}, /* USDOT (vector) */
    {0xBFC0F400, 0x0F80F000}, /* USDOT (by element) */
    {0xBFC0F400, 0x0F00F000}, /* SUDOT (by element) */
    {0xBFE0FC00, 0x2E40FC00}, /* BFDOT (vector) */
    {0xBFC0F400, 0x0F40F000}, /* BFDOT (by element) */
};

static const struct form MATMUL[] = {
    {0xFFE0FC00, 0x4E80A400}, /* SMMLA */
    {0xFFE0FC00, 0x6E80A400}, /* UMMLA */
    {0xFFE0FC00, 0x4E80AC00}, /* USMMLA */
    {0xFFE0FC00, 0x6E40EC00}, /* BFMMLA */
};

/* In these, bit 22 is L: 1 for a load. */
static const struct form LOAD_OR_STORE_BY_L[] = {
    {0x3F000000, 0x08000000}, /* exclusive and ordered: LDXR, STLR, …; compare and swap is matched earlier */
    {0xBE000000, 0x0C000000}, /* Advanced SIMD structures: LD1 … LD4R, ST1 … ST4 */
    {0x3A000000, 0x28000000}, /* pairs: LDP, STP, LDNP, STNP */
};

/* In these, bits 23:22 are opc: 0 is a store, and for SIMD registers any even value. */
static const struct form LOAD_OR_STORE_BY_OPC[] = {
    {0x3B000000, 0x39000000}, /* unsigned immediate: LDR, STR */
    {0x3B200000, 0x38000000}, /* unscaled, post- and pre-indexed, unprivileged: LDUR, LDTR, … */
    {0x3B200C00, 0x38200800}, /* register offset */
    {0x3F200C00, 0x19000000}, /* ordered, unscaled: LDAPUR, STLUR */
};

static const struct form LOAD[] = {
    {0x3B000000, 0x18000000}, /* literal: LDR, LDRSW */
    {0x3FFFFC00, 0x38BFC000}, /* LDAPR, in the encoding space of the atomics */
    {0xFF200400, 0xF8200400}, /* pointer authentication: LDRAA, LDRAB */
};

static const struct form LOAD_AND_STORE[] = {
    {0x3FA07C00, 0x08A07C00}, /* compare and swap: CAS */
    {0xBFA07C00, 0x08207C00}, /* … of a pair: CASP */
    {0x3B200C00, 0x38200000}, /* atomics: LDADD, SWP, … */
};

static const struct form PREFETCH[] = {
    {0xFF000000, 0xD8000000}, /* PRFM (literal) */
    {0xFFC00000, 0xF9800000}, /* PRFM (unsigned immediate) */
    {0xFFE00000, 0xF8800000}, /* PRFUM */
    {0xFFE00C00, 0xF8A00800}, /* PRFM (register) */
};

#define IS_ONE_OF(forms, word) is_one_of(forms, sizeof(forms) / sizeof((forms)[0]), word)

static bool is_one_of(const struct form *forms, size_t count, uint32_t word) {
    for (size_t i = 0; i < count; i++)
        if ((word & forms[i].mask) == forms[i].bits)
            return true;
    return false;
}

static bool stores_by_opc(uint32_t word) {
    const uint32_t simd = word >> 26 & 1, opc = word >> 22 & 3;
    return simd ? (opc & 1) == 0 : opc == 0;
}

struct tally {
    uint64_t instructions, loads, stores, dot, matmul;
};

static void sort(struct tally *tally, uint32_t word) {
    tally->instructions++;
    if (IS_ONE_OF(DOT, word)) {
        tally->dot++;
    } else if (IS_ONE_OF(MATMUL, word)) {
        tally->matmul++;
    } else if (IS_ONE_OF(PREFETCH, word)) {
        return;
    } else if (IS_ONE_OF(LOAD, word)) {
        tally->loads++;
    } else if (IS_ONE_OF(LOAD_AND_STORE, word)) {
        tally->loads++;
        tally->stores++;
    } else if (IS_ONE_OF(LOAD_OR_STORE_BY_L, word)) {
        *(word >> 22 & 1 ? &tally->loads : &tally->stores) += 1;
    } else if (IS_ONE_OF(LOAD_OR_STORE_BY_OPC, word)) {
        *(stores_by_opc(word) ? &tally->stores : &tally->loads) += 1;
    }
}

static const uint32_t HINT_START = 0xD5032D1F, HINT_STOP = 0xD5032D3F; /* hint #0x68, hint #0x69 */

enum { NOBODY = -1 };
static int counted_vcpu = NOBODY;
static uint64_t regions;
static struct tally total;
static const char *out_path;

static void start(unsigned int vcpu, void *unused) {
    (void)unused;
    counted_vcpu = (int)vcpu;
    regions++;
}

static void stop(unsigned int vcpu, void *unused) {
    (void)unused;
    if (counted_vcpu == (int)vcpu)
        counted_vcpu = NOBODY;
}

static void add(unsigned int vcpu, void *piece) {
    const struct tally *tally = piece;
    if (counted_vcpu != (int)vcpu)
        return;
    total.instructions += tally->instructions;
    total.loads += tally->loads;
    total.stores += tally->stores;
    total.dot += tally->dot;
    total.matmul += tally->matmul;
}

static uint32_t word_of(const struct qemu_plugin_insn *insn) {
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(insn), sizeof(word));
    return word;
}

/* A piece's tally is never freed, because QEMU may execute the translation at any time. */
static struct tally *new_piece(struct qemu_plugin_insn *first) {
    struct tally *piece = calloc(1, sizeof(*piece));
    if (piece == NULL) {
        fputs("counter: out of memory\n", stderr);
        exit(1);
    }
    qemu_plugin_register_vcpu_insn_exec_cb(first, add, QEMU_PLUGIN_CB_NO_REGS, piece);
    return piece;
}

static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    struct tally *piece = NULL;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        const uint32_t word = word_of(insn);
        if (word == HINT_START || word == HINT_STOP) {
            qemu_plugin_register_vcpu_insn_exec_cb(insn, word == HINT_START ? start : stop, QEMU_PLUGIN_CB_NO_REGS, NULL);
            piece = NULL;
            continue;
        }
        if (piece == NULL)
            piece = new_piece(insn);
        sort(piece, word);
    }
}

static void report(qemu_plugin_id_t id, void *unused) {
    (void)id;
    (void)unused;
    FILE *out = out_path != NULL ? fopen(out_path, "w") : stderr;
    if (out == NULL) {
        perror(out_path);
        return;
    }
    fprintf(out,
            "{\"regions\": %" PRIu64 ", \"instructions\": %" PRIu64 ", \"loads\": %" PRIu64 ", \"stores\": %" PRIu64
            ", \"dot\": %" PRIu64 ", \"matmul\": %" PRIu64 "}\n",
            regions, total.instructions, total.loads, total.stores, total.dot, total.matmul);
    if (out != stderr)
        fclose(out);
}

EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) != 0) {
            fprintf(stderr, "counter: %s: the only argument is out=FILE\n", argv[i]);
            return -1;
        }
        out_path = argv[i] + 4;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    qemu_plugin_register_atexit_cb(id, report, NULL);
    return 0;
}
