/* A plugin for qemu-user 7.2 (plugin API version 1). It counts the instructions
 * that a program executes between two markers.
 *
 *   qemu-aarch64 -plugin libcount.so,out=FILE[,where=N] PROGRAM
 *
 * A marker is a call to getpgid(2) with a process ID that cannot exist, which is BEGIN
 * or END below. For each section between markers, the plugin writes a line "count
 * ALL FMLA" to FILE, with the number of all instructions and the number of vector
 * multiply-adds of floats. With `where`, it adds lines "at COUNT FMLA FUNCTION" for
 * the N functions with the most instructions. The counts are correct only if a single
 * thread runs, so the program must not run other threads between markers. */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The declarations that this file needs from qemu-plugin.h, which Debian does not package. */
#define EXPORT __attribute__((visibility("default")))
typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*tb_trans_t)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*syscall_t)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                          uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_t);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_t);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);

EXPORT int qemu_plugin_version = 1;

enum { GETPGID = 155 /* aarch64 */, BEGIN = 0x4d41534b, END = 0x4d41534c };

/* A translated block. `runs` counts all of its runs, and `before` counts its runs before
 * the last BEGIN. */
struct block {
    uint64_t runs, before;
    uint32_t all, fmla;
    const char *function;
    struct block *next;
};

struct function {
    const char *name;
    uint64_t all, fmla;
};

static struct block *blocks;
static FILE *out;
static int where;

/* Returns whether this is an FMLA instruction on vectors of 32-bit or 64-bit floats, or
 * of 16-bit floats, by vector or by element (Arm ARM C7.2). */
static bool is_fmla(uint32_t code)
{
    return (code & 0xbfa0fc00) == 0x0e20cc00 || (code & 0xbf80f400) == 0x0f801000 ||
           (code & 0xbfe0fc00) == 0x0e400c00 || (code & 0xbfc0f400) == 0x0f001000;
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    (void)id;
    struct block *block = calloc(1, sizeof *block);
    if (!block)
        abort();
    block->all = qemu_plugin_tb_n_insns(tb);
    for (size_t at = 0; at < block->all; at++) {
        uint32_t code;
        memcpy(&code, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(tb, at)), sizeof code);
        block->fmla += is_fmla(code);
    }
    const char *symbol = where ? qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(tb, 0)) : NULL;
    block->function = symbol ? symbol : "?";
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->runs, 1);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct function *)a)->name, ((const struct function *)b)->name);
}

static int by_count(const void *a, const void *b)
{
    uint64_t x = ((const struct function *)a)->all, y = ((const struct function *)b)->all;
    return (x < y) - (x > y);
}

static void tell_where(void)
{
    size_t length = 0, functions = 0;
    for (struct block *block = blocks; block; block = block->next)
        length += block->runs > block->before;
    struct function *list = calloc(length + 1, sizeof *list);
    if (!list)
        abort();
    length = 0;
    for (struct block *block = blocks; block; block = block->next) {
        uint64_t runs = block->runs - block->before;
        if (runs)
            list[length++] = (struct function){ block->function, runs * block->all, runs * block->fmla };
    }
    qsort(list, length, sizeof *list, by_name);
    for (size_t at = 0; at < length; at++) {
        if (functions && strcmp(list[functions - 1].name, list[at].name) == 0) {
            list[functions - 1].all += list[at].all;
            list[functions - 1].fmla += list[at].fmla;
        } else {
            list[functions++] = list[at];
        }
    }
    qsort(list, functions, sizeof *list, by_count);
    for (size_t at = 0; at < functions && at < (size_t)where; at++)
        fprintf(out, "at %" PRIu64 " %" PRIu64 " %s\n", list[at].all, list[at].fmla, list[at].name);
    free(list);
}

static void called(qemu_plugin_id_t id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != GETPGID)
        return;
    if (a1 == BEGIN) {
        for (struct block *block = blocks; block; block = block->next)
            block->before = block->runs;
    } else if (a1 == END) {
        uint64_t all = 0, fmla = 0;
        for (struct block *block = blocks; block; block = block->next) {
            uint64_t runs = block->runs - block->before;
            all += runs * block->all;
            fmla += runs * block->fmla;
        }
        fprintf(out, "count %" PRIu64 " %" PRIu64 "\n", all, fmla);
        if (where)
            tell_where();
        fflush(out);
    }
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int at = 0; at < argc; at++) {
        if (strncmp(argv[at], "out=", 4) == 0)
            out = fopen(argv[at] + 4, "w");
        else if (strncmp(argv[at], "where=", 6) == 0)
            where = atoi(argv[at] + 6);
    }
    if (!out) {
        fputs("count: out=FILE is missing, or cannot be written\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
