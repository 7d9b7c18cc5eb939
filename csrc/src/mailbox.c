/*
 * mailbox.c: news of many processes for one consumer.
 *
 * The list of processes with news runs through the processes themselves, so
 * posting allocates nothing and no news can be lost. What happened to one
 * process since the last look is one entry with several bits. The eventfd is
 * written once per change from empty to not empty, and only if somebody
 * listens: a batch costs one wake-up.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "internal.h"
#include "sys.h"

typedef struct orphan_news {
    struct orphan_news *next;
    fp_exit exit;
} orphan_news;

enum { FEWEST_TO_WAKE = 3, ENOUGH_TO_WAKE = 32, ENOUGH_FOR_THE_PATIENT = 64 };
#define PATIENCE (10 * FP_NS_PER_MS)
#define MOST_PATIENCE (20 * FP_NS_PER_MS)

struct fp_mailbox {
    _Atomic uint32_t refs;
    pid_t owner;
    pthread_mutex_t lock;
    fp_proc *first;
    fp_proc *last;
    orphan_news *first_orphan;
    orphan_news **last_orphan;
    int event_fd;
    _Atomic bool listening; /* somebody asked for the descriptor or blocks in take */
    bool raised;    /* the eventfd is readable */
    bool due;       /* there are news that somebody is to be woken for */
    uint32_t unheard; /* posted since, waking nobody */
    int64_t unheard_ns; /* when the first of them was; 0: there is none */
    bool patient;   /* its consumer is */
    bool woken;     /* fp_mailbox_wake() */
    bool resting;   /* somebody is in fp_mailbox_rest() */
    bool roused;    /* fp_mailbox_wake(), of which only that takes note */
    _Atomic(fp_mailbox *) orphans_to; /* referenced, unless it is this one */
    bool closed;    /* the consumer is gone */
};

int fp_mailbox_new(fp_mailbox **ret_mailbox) {
    fp_mailbox *mailbox = calloc(1, sizeof *mailbox);
    if (!mailbox)
        return -ENOMEM;
    mailbox->event_fd = sys_aside(sys_eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (mailbox->event_fd < 0) {
        int r = mailbox->event_fd;
        free(mailbox);
        return r;
    }
    atomic_init(&mailbox->refs, 1);
    mailbox->owner = fp_own_pid();
    pthread_mutex_init(&mailbox->lock, NULL);
    mailbox->last_orphan = &mailbox->first_orphan;
    *ret_mailbox = mailbox;
    return 0;
}

fp_mailbox *fp_mailbox_ref(fp_mailbox *mailbox) {
    if (mailbox)
        atomic_fetch_add_explicit(&mailbox->refs, 1, memory_order_relaxed);
    return mailbox;
}

void fp_mailbox_unref(fp_mailbox *mailbox) {
    if (!mailbox || atomic_fetch_sub_explicit(&mailbox->refs, 1, memory_order_acq_rel) != 1)
        return;
    fp_mailbox *where = atomic_load_explicit(&mailbox->orphans_to, memory_order_relaxed);
    if (where != mailbox)
        fp_mailbox_unref(where);
    pthread_mutex_destroy(&mailbox->lock);
    free(mailbox);
}

/* A forked copy: nobody posts any more, and the lock may be held for ever. */
static bool is_copy(const fp_mailbox *mailbox) {
    return mailbox->owner != fp_own_pid();
}

static void raise_event(fp_mailbox *mailbox) {
    if (!mailbox->raised)
        sys_eventfd_raise(mailbox->event_fd);
    mailbox->raised = true;
}

static void lower_event(fp_mailbox *mailbox) {
    if (mailbox->raised)
        sys_eventfd_lower(mailbox->event_fd);
    mailbox->raised = false;
}

/* The eventfd follows the list while somebody listens. Called with the lock held. */
static void raise_flag(fp_mailbox *mailbox) {
    mailbox->due = true;
    mailbox->unheard = 0;
    mailbox->unheard_ns = 0;
    if (mailbox->listening)
        raise_event(mailbox);
}

static void lower_flag(fp_mailbox *mailbox) {
    mailbox->due = false;
    mailbox->unheard = 0;
    mailbox->unheard_ns = 0;
    if (!mailbox->resting || !mailbox->roused)
        lower_event(mailbox);
}

static bool is_empty(const fp_mailbox *mailbox) {
    return !mailbox->first && !mailbox->first_orphan && !mailbox->woken;
}

/* Whether there are news that are not held back, or somebody shall return without any. */
static bool is_due(fp_mailbox *mailbox) {
    pthread_mutex_lock(&mailbox->lock);
    bool due = mailbox->due;
    pthread_mutex_unlock(&mailbox->lock);
    return due;
}

bool fp_mailbox_is_listened_to(fp_mailbox *mailbox) {
    return mailbox && atomic_load_explicit(&mailbox->listening, memory_order_relaxed);
}

/* A patient listener leaves those in peace that nobody is to be woken for yet. */
static void listen_from_now(fp_mailbox *mailbox, bool patient) {
    mailbox->listening = true;
    mailbox->patient = patient;
    if (patient ? mailbox->due : !is_empty(mailbox))
        raise_flag(mailbox);
}

static void unlink_proc(fp_mailbox *mailbox, fp_proc *proc) {
    if (proc->mail_prev)
        proc->mail_prev->mail_next = proc->mail_next;
    else
        mailbox->first = proc->mail_next;
    if (proc->mail_next)
        proc->mail_next->mail_prev = proc->mail_prev;
    else
        mailbox->last = proc->mail_prev;
    proc->mail_next = proc->mail_prev = NULL;
    proc->in_mail = false;
}

/* Called with the lock held. */
static void add(fp_mailbox *mailbox, fp_proc *proc, uint32_t what) {
    proc->mail_news |= what;
    if (proc->in_mail)
        return;
    proc->in_mail = true;
    proc->mail_next = NULL;
    proc->mail_prev = mailbox->last;
    if (mailbox->last)
        mailbox->last->mail_next = proc;
    else
        mailbox->first = proc;
    mailbox->last = fp_proc_ref(proc);
}

void fp_mailbox_post(fp_mailbox *mailbox, fp_proc *proc, uint32_t what) {
    if (!mailbox || !what)
        return;
    pthread_mutex_lock(&mailbox->lock);
    if (!mailbox->closed) {
        add(mailbox, proc, what);
        raise_flag(mailbox);
    }
    pthread_mutex_unlock(&mailbox->lock);
}

/*
 * So many news are worth a wake-up. Who hears of an end often starts the next: with few of them under way he is woken
 * before the crew has nothing left to do, so that both are busy at a time.
 */
static uint32_t enough(const fp_mailbox *mailbox, uint32_t queued) {
    if (mailbox->patient)
        return ENOUGH_FOR_THE_PATIENT;
    if (queued > 2 * ENOUGH_TO_WAKE)
        return ENOUGH_TO_WAKE;
    return queued < 2 * FEWEST_TO_WAKE ? FEWEST_TO_WAKE : queued / 2;
}

bool fp_mailbox_post_later(fp_mailbox *mailbox, fp_proc *proc, uint32_t what, uint32_t queued, int64_t now) {
    pthread_mutex_lock(&mailbox->lock);
    bool few = ++mailbox->unheard < enough(mailbox, queued);
    if (few && !mailbox->closed)
        add(mailbox, proc, what);
    if (!mailbox->unheard_ns)
        mailbox->unheard_ns = now;
    pthread_mutex_unlock(&mailbox->lock);
    return few;
}

int64_t fp_mailbox_tell_at(fp_mailbox *mailbox) {
    pthread_mutex_lock(&mailbox->lock);
    int64_t since = mailbox->unheard_ns ? mailbox->unheard_ns : FP_NEVER;
    bool patient = mailbox->patient;
    pthread_mutex_unlock(&mailbox->lock);
    return fp_after(since, patient ? PATIENCE : FP_UNHEARD_FOR);
}

void fp_mailbox_flush(fp_mailbox *mailbox) {
    pthread_mutex_lock(&mailbox->lock);
    if (!is_empty(mailbox))
        raise_flag(mailbox);
    pthread_mutex_unlock(&mailbox->lock);
}

void fp_mailbox_note(fp_mailbox *mailbox, fp_proc *proc, uint32_t what) {
    if (!mailbox)
        return;
    pthread_mutex_lock(&mailbox->lock);
    proc->mail_news |= what;
    pthread_mutex_unlock(&mailbox->lock);
}

fp_mailbox *fp_mailbox_of_orphans(fp_mailbox *mailbox) {
    return mailbox ? atomic_load_explicit(&mailbox->orphans_to, memory_order_acquire) : NULL;
}

int fp_mailbox_tell_orphans(fp_mailbox *mailbox, fp_mailbox *where) {
    fp_mailbox *nowhere = NULL;
    if (!where)
        return -EINVAL;
    if (is_copy(mailbox))
        return -EOWNERDEAD;
    if (where != mailbox)
        fp_mailbox_ref(where);
    if (!atomic_compare_exchange_strong(&mailbox->orphans_to, &nowhere, where) && where != mailbox)
        fp_mailbox_unref(where);
    return 0;
}

bool fp_mailbox_post_orphan(fp_mailbox *mailbox, const fp_exit *exit) {
    orphan_news *news = mailbox ? malloc(sizeof *news) : NULL;
    if (!news)
        return false;
    *news = (orphan_news){.exit = *exit};
    pthread_mutex_lock(&mailbox->lock);
    bool read = !mailbox->closed;
    if (!read) {
        free(news);
    } else {
        *mailbox->last_orphan = news;
        mailbox->last_orphan = &news->next;
        raise_flag(mailbox);
    }
    pthread_mutex_unlock(&mailbox->lock);
    return read;
}

enum { TAKE_AT_ONCE = 64 };

/* Move up to `n` entries out, without blocking. */
static int take_now(fp_mailbox *mailbox, fp_news *ret_news, size_t n, bool *ret_woken) {
    fp_proc *procs[TAKE_AT_ONCE];
    uint32_t what[TAKE_AT_ONCE];
    int n_procs = 0, taken = 0;

    if (n > TAKE_AT_ONCE)
        n = TAKE_AT_ONCE;
    pthread_mutex_lock(&mailbox->lock);
    for (; mailbox->first_orphan && (size_t)taken < n; taken++) {
        orphan_news *news = mailbox->first_orphan;
        mailbox->first_orphan = news->next;
        if (!mailbox->first_orphan)
            mailbox->last_orphan = &mailbox->first_orphan;
        ret_news[taken] = (fp_news){.what = FP_NEWS_ORPHAN, .exit = news->exit};
        free(news);
    }
    for (; mailbox->first && (size_t)(taken + n_procs) < n; n_procs++) {
        procs[n_procs] = mailbox->first;
        what[n_procs] = mailbox->first->mail_news;
        mailbox->first->mail_news = 0;
        unlink_proc(mailbox, mailbox->first);
    }
    *ret_woken = mailbox->woken;
    mailbox->woken = false;
    if (is_empty(mailbox))
        lower_flag(mailbox);
    pthread_mutex_unlock(&mailbox->lock);

    /* The status is asked for without our lock: the supervisor's comes first. */
    for (int i = 0; i < n_procs; i++) {
        fp_news *news = &ret_news[taken++];
        *news = (fp_news){.token = procs[i]->token, .what = what[i]};
        fp_proc_status(procs[i], &news->exit);
        if (what[i] & FP_NEWS_FAILED)
            fp_proc_failure(procs[i], &news->failure);
        fp_proc_free(procs[i]);
    }
    return taken;
}

/* Until there is something; 0, or -errno as poll(2). Never for long if there is: who is to wake us may hang in a birth. */
static int sleep_once(fp_mailbox *mailbox, fp_sleep *sleep, bool patient) {
    int64_t now = fp_now_ns(), wake;
    int r;

    pthread_mutex_lock(&mailbox->lock);
    /* Who does not wait does not listen either: the consumer may be asleep in fp_mailbox_rest(). */
    if (now < sleep->until_ns)
        listen_from_now(mailbox, patient);
    mailbox->patient = patient;
    bool held_back = patient && !mailbox->due && !is_empty(mailbox);
    pthread_mutex_unlock(&mailbox->lock);
    r = fp_sleep_next(sleep, now, &wake);
    if (r < 0)
        return r;
    int64_t left = wake == FP_NEVER ? -1 : wake - now;
    if (held_back && (left < 0 || left > MOST_PATIENCE))
        left = MOST_PATIENCE;
    struct pollfd wait = {.fd = mailbox->event_fd, .events = POLLIN};
    uint64_t mask;
    bool blocked = fp_sigchld_hold_back(&mask);
    r = sys_poll(&wait, 1, left);
    if (blocked)
        fp_sigchld_let_in(&mask);
    return r < 0 ? r : 0;
}

static int take(fp_mailbox *mailbox, fp_news *ret_news, size_t n, int64_t timeout_ns, bool patient) {
    fp_sleep sleep = fp_sleep_begin(timeout_ns);

    if (n == 0)
        return -EINVAL;
    if (is_copy(mailbox))
        return -EOWNERDEAD;
    for (bool wanted = !patient || is_due(mailbox);; wanted = true) {
        bool woken = false;
        int taken = 0;
        while (wanted && (size_t)taken < n) {
            int now = take_now(mailbox, ret_news + taken, n - (size_t)taken, &woken);
            taken += now;
            if (now < TAKE_AT_ONCE)
                break;
        }
        if (taken || woken)
            return taken;
        int r = sleep_once(mailbox, &sleep, patient);
        if (r < 0)
            return r;
    }
}

int fp_mailbox_take(fp_mailbox *mailbox, fp_news *ret_news, size_t n, int64_t timeout_ns) {
    return take(mailbox, ret_news, n, timeout_ns, false);
}

int fp_mailbox_take_many(fp_mailbox *mailbox, fp_news *ret_news, size_t n, int64_t timeout_ns) {
    return take(mailbox, ret_news, n, timeout_ns, true);
}

/* Until somebody has called fp_mailbox_wake(); news are only kept. */
static int rest_until(fp_mailbox *mailbox, int64_t until) {
    pthread_mutex_lock(&mailbox->lock);
    int64_t now = fp_now_ns();
    int r = mailbox->roused ? 1 : now >= until ? -ETIMEDOUT : 0;
    mailbox->resting = r == 0;
    mailbox->listening = false;
    if (r > 0)
        mailbox->woken = mailbox->roused = false;
    if (r >= 0)
        lower_event(mailbox);
    pthread_mutex_unlock(&mailbox->lock);
    if (r != 0)
        return r;
    struct pollfd wait = {.fd = mailbox->event_fd, .events = POLLIN};
    r = sys_poll(&wait, 1, until == FP_NEVER ? -1 : until - now);
    if (r >= 0)
        return 0;
    pthread_mutex_lock(&mailbox->lock);
    mailbox->resting = false;
    pthread_mutex_unlock(&mailbox->lock);
    return r;
}

int fp_mailbox_rest(fp_mailbox *mailbox, int64_t timeout_ns) {
    int64_t until = timeout_ns < 0 ? FP_NEVER : fp_after(fp_now_ns(), timeout_ns);
    int r = 0;

    if (is_copy(mailbox))
        return -EOWNERDEAD;
    while (r == 0)
        r = rest_until(mailbox, until);
    return r < 0 ? r : 0;
}

int fp_mailbox_fd(fp_mailbox *mailbox) {
    if (is_copy(mailbox))
        return -EOWNERDEAD;
    pthread_mutex_lock(&mailbox->lock);
    listen_from_now(mailbox, false);
    pthread_mutex_unlock(&mailbox->lock);
    return mailbox->event_fd;
}

int fp_mailbox_wake(fp_mailbox *mailbox) {
    if (is_copy(mailbox))
        return -EOWNERDEAD;
    pthread_mutex_lock(&mailbox->lock);
    mailbox->woken = mailbox->roused = true;
    raise_flag(mailbox);
    raise_event(mailbox); /* also for who rests */
    pthread_mutex_unlock(&mailbox->lock);
    return 0;
}

int fp_mailbox_forget(fp_mailbox *mailbox, fp_proc *proc) {
    bool ours = false;

    if (is_copy(mailbox))
        return -EOWNERDEAD;
    pthread_mutex_lock(&mailbox->lock);
    if (proc->mailbox == mailbox && proc->in_mail) {
        proc->mail_news = 0;
        unlink_proc(mailbox, proc);
        if (is_empty(mailbox))
            lower_flag(mailbox);
        ours = true;
    }
    pthread_mutex_unlock(&mailbox->lock);
    if (ours)
        fp_proc_free(proc);
    return 0;
}

fp_mailbox *fp_mailbox_free(fp_mailbox *mailbox) {
    if (!mailbox)
        return NULL;
    if (is_copy(mailbox)) {
        sys_close(mailbox->event_fd);
        fp_mailbox_unref(mailbox);
        return NULL;
    }
    pthread_mutex_lock(&mailbox->lock);
    mailbox->closed = true;
    /* Not with the last reference: processes keep us, and may be kept for long, but nobody listens any more. */
    mailbox->listening = false;
    sys_close(mailbox->event_fd);
    mailbox->event_fd = -1;
    fp_proc *proc = mailbox->first;
    mailbox->first = mailbox->last = NULL;
    orphan_news *orphan = mailbox->first_orphan;
    mailbox->first_orphan = NULL;
    pthread_mutex_unlock(&mailbox->lock);
    while (proc) {
        fp_proc *next = proc->mail_next;
        proc->in_mail = false;
        proc = fp_proc_free(proc);
        proc = next;
    }
    while (orphan) {
        orphan_news *next = orphan->next;
        free(orphan);
        orphan = next;
    }
    fp_mailbox_unref(mailbox);
    return NULL;
}
