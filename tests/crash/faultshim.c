/* A preloaded library that kills its process at the n-th libc call that can change something.
 *
 * Built at test time: gcc -O1 -shared -fPIC -o faultshim.so faultshim.c -ldl
 *
 * Every mutating function of libc that Python, SQLite and layerstore use is interposed. Armed with
 * a number and a mode, the library counts the calls, and at that one it kills the process
 *   BEFORE   with SIGKILL in front of the call: it is not made;
 *   AFTER    behind it: it is made, and nobody learns of it;
 *   TORN     in the middle of a write: the first half of the bytes is written;
 *   CUT      in front of the call, after the power of its disk: the file system is shut down as it
 *            lies on the disk, with nothing of what it has in memory;
 * or it lets that one call fail, without making it, and the process live:
 *   EIO      with an I/O error;
 *   ENOSPC   as on a full disk;
 *   ERROR    with the number that fault_error() was told; told so, also every later call, of those
 *            that can give this number at all.
 * In COUNT mode it only counts, and keeps the names of the calls for whoever asks.
 *
 * All wrappers have one signature, six words in and one out. A system call has at most six
 * arguments, all of them integers or pointers, and on the machines that this runs on (x86-64,
 * aarch64) those travel in the same registers whether a function is declared with fewer, with
 * narrower, or with variable arguments. That is why no header with their prototypes is included.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>

#define O_CREAT_OR_TRUNC (00000100 | 00001000)
#define O_TMPFILE_BIT 020000000
#define KEPT 65536

#define SIGKILL 9

extern int getpid(void);
extern int kill(int, int);
extern int access(const char *, int);
extern int ioctl(int, unsigned long, ...);

enum mode { COUNT, BEFORE, AFTER, TORN, FAIL_EIO, FAIL_ENOSPC, CUT, FAIL };
typedef long (*call)(long, long, long, long, long, long);

static int armed;
static enum mode mode;
static long at, seen;
static long ignored = -1;
static int disk = -1;
static int error_number, for_ever, opening_only;
static const char *names[KEPT];

void fault_arm(long number, int how) {
  at = number;
  mode = how;
  seen = 0;
  armed = 1;
}
void fault_disarm(void) { armed = 0; }
long fault_seen(void) { return seen; }
const char *fault_name(long number) {
  return number >= 0 && number < seen && number < KEPT ? names[number] : "";
}
/* Writes to this descriptor are the harness's own. */
void fault_ignore(int descriptor) { ignored = descriptor; }
/* The file system that a CUT shuts down. */
void fault_disk(int descriptor) { disk = descriptor; }

/* What FAIL fails with; on: not only once; of_opens: calls that give no descriptor succeed. */
void fault_error(int number, int on, int of_opens) {
  error_number = number;
  for_ever = on;
  opening_only = of_opens;
}

#define SHUTDOWN 0x8004587dUL /* EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN */

static void cut(void) {
  unsigned int without_flushing_the_log = 2;
  ioctl(disk, SHUTDOWN, &without_flushing_the_log);
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) {
  }
}

/* 1 where this very call is the one. */
static int counted(const char *name) {
  if (!armed)
    return 0;
  long number = __sync_fetch_and_add(&seen, 1);
  if (number < KEPT)
    names[number] = name;
  return mode != COUNT && (number == at || (mode == FAIL && for_ever && number > at));
}

/* 1 for a call that gives a descriptor. */
static int gives_descriptor(const char *name) {
  return (name[0] == 'o' && name[1] == 'p') || (name[0] == 'c' && name[1] == 'r') ||
         (name[0] == 'f' && name[1] == 's' && (name[2] == 'o' || name[2] == 'm' || name[2] == 'p'));
}

/* 1 for an open of a file that exists; paths relative to a descriptor count as new. */
static int is_there(const char *name, long a, long b) {
  const char *path = (const char *)(name[4] == 'a' ? b : a);
  return name[0] == 'o' && name[1] == 'p' && path[0] == '/' && access(path, 0) == 0;
}

static long pass(const char *name, call real, int torn, long a, long b, long c, long d, long e,
                 long f) {
  if (real == 0) { /* a libc without it: as if the kernel lacked it */
    errno = ENOSYS;
    return -1;
  }
  if (!counted(name))
    return real(a, b, c, d, e, f);
  /* Opening what is there takes no room, whatever the flags say. */
  if (mode == FAIL_ENOSPC && is_there(name, a, b))
    return real(a, b, c, d, e, f);
  if (mode == FAIL && opening_only && !gives_descriptor(name))
    return real(a, b, c, d, e, f);
  if (mode == FAIL_EIO || mode == FAIL_ENOSPC || mode == FAIL) {
    int number = mode == FAIL ? error_number : mode == FAIL_EIO ? EIO : ENOSPC;
    if (name[0] == 'p' && name[1] == 'o') /* posix_fallocate gives the number itself */
      return number;
    errno = number;
    return -1;
  }
  if (mode == TORN && torn)
    real(a, b, c / 2, d, e, f);
  if (mode == AFTER)
    real(a, b, c, d, e, f);
  if (mode == CUT)
    cut();
  die();
  return -1;
}

#define WRAP(name, counts, torn)                                                                  \
  long name(long a, long b, long c, long d, long e, long f) {                                     \
    static call real;                                                                             \
    if (real == 0)                                                                                \
      real = (call)dlsym(RTLD_NEXT, #name);                                                       \
    if (!armed || !(counts)) {                                                                    \
      if (real == 0) {                                                                            \
        errno = ENOSYS;                                                                           \
        return -1;                                                                                \
      }                                                                                           \
      return real(a, b, c, d, e, f);                                                              \
    }                                                                                             \
    return pass(#name, real, torn, a, b, c, d, e, f);                                             \
  }

#define CALL(name) WRAP(name, 1, 0)
#define WRITE(name) WRAP(name, a != ignored, 1)
#define OPEN(name, flags) WRAP(name, (flags) & (O_CREAT_OR_TRUNC | O_TMPFILE_BIT), 0)

/* names */
CALL(mkdir)
CALL(mkdirat)
CALL(mkfifo)
CALL(mkfifoat)
CALL(mknod)
CALL(mknodat)
CALL(symlink)
CALL(symlinkat)
CALL(link)
CALL(linkat)
CALL(rename)
CALL(renameat)
CALL(renameat2)
CALL(unlink)
CALL(unlinkat)
CALL(rmdir)
CALL(creat)
CALL(creat64)
OPEN(open, b)
OPEN(open64, b)
OPEN(openat, c)
OPEN(openat64, c)
/* content */
WRITE(write)
WRITE(pwrite)
WRITE(pwrite64)
CALL(writev)
CALL(pwritev)
CALL(pwritev64)
CALL(pwritev64v2)
CALL(truncate)
CALL(truncate64)
CALL(ftruncate)
CALL(ftruncate64)
CALL(fallocate)
CALL(fallocate64)
CALL(posix_fallocate)
CALL(posix_fallocate64)
CALL(copy_file_range)
CALL(sendfile)
CALL(sendfile64)
/* what makes it last */
CALL(fsync)
CALL(fdatasync)
CALL(syncfs)
CALL(sync)
/* attributes */
CALL(chmod)
CALL(fchmod)
CALL(fchmodat)
CALL(chown)
CALL(lchown)
CALL(fchown)
CALL(fchownat)
CALL(utimes)
CALL(utimensat)
CALL(futimens)
CALL(setxattr)
CALL(lsetxattr)
CALL(fsetxattr)
CALL(removexattr)
CALL(lremovexattr)
CALL(fremovexattr)
/* mounts */
CALL(mount)
CALL(umount)
CALL(umount2)
CALL(fsopen)
CALL(fsconfig)
CALL(fsmount)
CALL(fspick)
CALL(open_tree)
CALL(move_mount)
/* locks that a death releases: what it releases at that moment is a state of its own */
CALL(flock)
