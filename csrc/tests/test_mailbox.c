/*
 * test_mailbox.c: news of many processes for one consumer. The processes here
 * are handles only; nothing is started.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "check.h"
#include "internal.h"
#include "sys.h"

static fp_supervisor *supervisor;

static fp_proc *handle(fp_mailbox *mailbox, uint64_t token) {
    fp_spec spec = {.size = sizeof spec, .token = token, .mailbox = mailbox};
    fp_proc *proc = fp_proc_new(&spec);
    atomic_store(&proc->supervisor, fp_supervisor_ref(supervisor));
    return proc;
}

static fp_mailbox *new_mailbox(void) {
    fp_mailbox *mailbox = NULL;
    CHECK_EQ(fp_mailbox_new(&mailbox), 0);
    return mailbox;
}

static bool is_readable(int fd) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    return poll(&wait, 1, 0) == 1;
}

static void an_empty_mailbox_says_so_in_time(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_news news;
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 0), -ETIMEDOUT);
    int64_t before = fp_now_ns();
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 20 * FP_NS_PER_MS), -ETIMEDOUT);
    CHECK(fp_now_ns() - before >= 20 * FP_NS_PER_MS);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 0, 0), -EINVAL);
    fp_mailbox_free(mailbox);
    CHECK(!fp_mailbox_free(NULL));
}

static void the_patient_leave_what_nobody_is_woken_for(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_proc *a = handle(mailbox, 1), *b = handle(mailbox, 2);
    fp_news news[4];

    CHECK(fp_mailbox_post_later(mailbox, a, FP_NEWS_DONE, 100, 17));
    CHECK_EQ(fp_mailbox_take_many(mailbox, news, 4, 0), -ETIMEDOUT);
    CHECK(fp_mailbox_post_later(mailbox, b, FP_NEWS_DONE, 100, 18));
    CHECK_EQ(fp_mailbox_tell_at(mailbox), 17 + 10 * FP_NS_PER_MS);
    fp_mailbox_flush(mailbox);
    CHECK_EQ(fp_mailbox_tell_at(mailbox), FP_NEVER);
    CHECK_EQ(fp_mailbox_take_many(mailbox, news, 4, 0), 2);

    CHECK(fp_mailbox_post_later(mailbox, a, FP_NEWS_DONE, 100, 19));
    CHECK_EQ(fp_mailbox_take(mailbox, news, 4, 0), 1);
    CHECK_EQ(fp_mailbox_tell_at(mailbox), FP_NEVER);

    /* With one that cannot wait the others are taken too, listened to or not. */
    CHECK(fp_mailbox_post_later(mailbox, a, FP_NEWS_DONE, 100, 20));
    fp_mailbox_post(mailbox, b, FP_NEWS_FAILED);
    CHECK_EQ(fp_mailbox_take_many(mailbox, news, 4, 0), 2);
    CHECK_EQ(fp_mailbox_wake(mailbox), 0);
    CHECK_EQ(fp_mailbox_take_many(mailbox, news, 4, -1), 0);
    fp_proc_free(a);
    fp_proc_free(b);
    fp_mailbox_free(mailbox);
}

/* How many news are held back, and the one that is told with them. */
static int pile_up(fp_mailbox *mailbox, fp_proc *const *procs, uint32_t queued) {
    int n = 0;

    while (fp_mailbox_post_later(mailbox, procs[n], FP_NEWS_DONE, queued, 1))
        n++;
    fp_mailbox_post(mailbox, procs[n++], FP_NEWS_DONE);
    return n;
}

static void many_news_are_told_at_once(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_proc *procs[65];
    fp_news news[65];

    for (int i = 0; i < 65; i++)
        procs[i] = handle(mailbox, (uint64_t)i);
    CHECK_EQ(pile_up(mailbox, procs, 100), 32);
    CHECK_EQ(fp_mailbox_take_many(mailbox, news, 65, -1), 32);
    /* He has not waited yet. */
    CHECK_EQ(pile_up(mailbox, procs, 100), 32);
    CHECK_EQ(fp_mailbox_take_many(mailbox, news, 65, -1), 32);
    CHECK_EQ(fp_mailbox_take_many(mailbox, news, 65, 0), -ETIMEDOUT);
    CHECK_EQ(pile_up(mailbox, procs, 100), 64);
    CHECK_EQ(fp_mailbox_take_many(mailbox, news, 65, -1), 64);
    CHECK_EQ(fp_mailbox_take(mailbox, news, 65, 0), -ETIMEDOUT);
    CHECK_EQ(pile_up(mailbox, procs, 100), 32);
    CHECK_EQ(fp_mailbox_take(mailbox, news, 65, 0), 32);

    /* Who is not patient shall hear of some while the crew still has work. */
    CHECK_EQ(pile_up(mailbox, procs, 10), 5);
    CHECK_EQ(fp_mailbox_take(mailbox, news, 65, 0), 5);
    CHECK_EQ(pile_up(mailbox, procs, 0), 3);
    CHECK_EQ(fp_mailbox_take_many(mailbox, news, 65, -1), 3);
    CHECK_EQ(fp_mailbox_take_many(mailbox, news, 65, 0), -ETIMEDOUT);
    CHECK_EQ(pile_up(mailbox, procs, 0), 64);
    for (int i = 0; i < 65; i++)
        fp_proc_free(procs[i]);
    fp_mailbox_free(mailbox);
}

/* Who is to wake him hangs in a birth. */
static void patience_has_an_end(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_proc *a = handle(mailbox, 1);
    fp_news news;

    CHECK(fp_mailbox_post_later(mailbox, a, FP_NEWS_DONE, 100, fp_now_ns()));
    CHECK_EQ(fp_mailbox_take_many(mailbox, &news, 1, -1), 1);
    fp_proc_free(a);
    fp_mailbox_free(mailbox);
}

static void news_about_one_process_are_one_entry(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_proc *a = handle(mailbox, 7), *b = handle(mailbox, 8);
    fp_news news[4];

    fp_mailbox_post(mailbox, a, FP_NEWS_STARTED);
    fp_mailbox_post(mailbox, b, FP_NEWS_EXITED);
    fp_mailbox_post(mailbox, a, FP_NEWS_EXITED | FP_NEWS_DONE);
    fp_mailbox_post(mailbox, b, 0);
    CHECK_EQ(fp_mailbox_take(mailbox, news, 4, 0), 2);
    CHECK_EQ(news[0].token, 7);
    CHECK_EQ(news[0].what, FP_NEWS_STARTED | FP_NEWS_EXITED | FP_NEWS_DONE);
    CHECK_EQ(news[1].token, 8);
    CHECK_EQ(news[1].what, FP_NEWS_EXITED);
    CHECK_EQ(fp_mailbox_take(mailbox, news, 4, 0), -ETIMEDOUT);
    /* What comes later is an entry of its own. */
    fp_mailbox_post(mailbox, a, FP_NEWS_OUTPUT);
    CHECK_EQ(fp_mailbox_take(mailbox, news, 4, 0), 1);
    CHECK_EQ(news[0].what, FP_NEWS_OUTPUT);
    fp_proc_free(a);
    fp_proc_free(b);
    fp_mailbox_free(mailbox);
}

static void many_are_taken_in_order_and_none_is_lost(void) {
    enum { MANY = 500 };
    fp_mailbox *mailbox = new_mailbox();
    fp_news news[200];
    uint64_t next = 0;

    for (int i = 0; i < MANY; i++) {
        fp_proc *proc = handle(mailbox, (uint64_t)i);
        fp_mailbox_post(mailbox, proc, FP_NEWS_DONE);
        /* The mailbox keeps what it holds. */
        fp_proc_free(proc);
    }
    for (int taken; (taken = fp_mailbox_take(mailbox, news, next % 3 ? 200 : 63, 0)) > 0;)
        for (int i = 0; i < taken; i++)
            CHECK_EQ(news[i].token, next++);
    CHECK_EQ(next, MANY);
    fp_mailbox_free(mailbox);
}

static void the_descriptor_is_readable_while_there_are_news(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_proc *a = handle(mailbox, 1), *b = handle(mailbox, 2);
    fp_news news;

    fp_mailbox_post(mailbox, a, FP_NEWS_STARTED);
    int fd = fp_mailbox_fd(mailbox);
    CHECK(is_readable(fd));
    fp_mailbox_post(mailbox, b, FP_NEWS_STARTED);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 0), 1);
    CHECK(is_readable(fd));
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 0), 1);
    CHECK(!is_readable(fd));
    fp_mailbox_post(mailbox, a, FP_NEWS_DONE);
    CHECK(is_readable(fd));
    CHECK_EQ(fp_mailbox_forget(mailbox, a), 0);
    CHECK(!is_readable(fd));
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 0), -ETIMEDOUT);
    fp_proc_free(a);
    fp_proc_free(b);
    fp_mailbox_free(mailbox);
}

static void forgetting_takes_out_of_any_place(void) {
    enum { MANY = 5 };
    for (int forgotten = 0; forgotten < MANY; forgotten++) {
        fp_mailbox *mailbox = new_mailbox(), *other = new_mailbox();
        fp_proc *procs[MANY];
        fp_news news[MANY];
        for (int i = 0; i < MANY; i++) {
            procs[i] = handle(mailbox, (uint64_t)i);
            fp_mailbox_post(mailbox, procs[i], FP_NEWS_DONE);
        }
        /* Not its mailbox, and once only. */
        CHECK_EQ(fp_mailbox_forget(other, procs[forgotten]), 0);
        CHECK_EQ(fp_mailbox_forget(mailbox, procs[forgotten]), 0);
        CHECK_EQ(fp_mailbox_forget(mailbox, procs[forgotten]), 0);
        CHECK_EQ(fp_mailbox_take(mailbox, news, MANY, 0), MANY - 1);
        for (int i = 0; i < MANY - 1; i++)
            CHECK_EQ(news[i].token, i + (i >= forgotten));
        for (int i = 0; i < MANY; i++)
            fp_proc_free(procs[i]);
        fp_mailbox_free(mailbox);
        fp_mailbox_free(other);
    }
}

static void a_wake_up_is_heard_once(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_proc *proc = handle(mailbox, 3);
    fp_news news;

    CHECK_EQ(fp_mailbox_wake(mailbox), 0);
    CHECK_EQ(fp_mailbox_wake(mailbox), 0);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, -1), 0);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 0), -ETIMEDOUT);
    /* Together with news it is the news that count. */
    fp_mailbox_wake(mailbox);
    fp_mailbox_post(mailbox, proc, FP_NEWS_DONE);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, -1), 1);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 0), -ETIMEDOUT);
    fp_proc_free(proc);
    fp_mailbox_free(mailbox);
}

static void *wake_after_news(void *arg) {
    fp_mailbox *mailbox = arg;
    fp_proc *proc = handle(mailbox, 7);
    usleep(20 * 1000);
    fp_mailbox_post(mailbox, proc, FP_NEWS_DONE);
    usleep(50 * 1000);
    CHECK_EQ(fp_mailbox_wake(mailbox), 0);
    fp_proc_free(proc);
    return NULL;
}

static void who_rests_is_woken_by_no_news(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_proc *proc = handle(mailbox, 3);
    int fd = fp_mailbox_fd(mailbox);
    fp_news news[2];

    CHECK_EQ(fp_mailbox_rest(mailbox, 0), -ETIMEDOUT);
    fp_mailbox_post(mailbox, proc, FP_NEWS_EXITED);
    CHECK(!is_readable(fd));
    CHECK_EQ(fp_mailbox_rest(mailbox, FP_NS_PER_MS), -ETIMEDOUT);
    /* Others may look meanwhile, and the rest goes on. */
    CHECK_EQ(fp_mailbox_take(mailbox, news, 2, 0), 1);
    CHECK_EQ(fp_mailbox_take(mailbox, news, 2, 0), -ETIMEDOUT);
    fp_mailbox_post(mailbox, proc, FP_NEWS_DONE);
    CHECK(!is_readable(fd));
    CHECK_EQ(fp_mailbox_take(mailbox, news, 2, -1), 1);

    /* A wake-up before it is not lost. */
    CHECK_EQ(fp_mailbox_wake(mailbox), 0);
    CHECK_EQ(fp_mailbox_rest(mailbox, -1), 0);

    pthread_t waker;
    int64_t began = fp_now_ns();
    pthread_create(&waker, NULL, wake_after_news, mailbox);
    CHECK_EQ(fp_mailbox_rest(mailbox, -1), 0);
    CHECK(fp_now_ns() - began >= 70 * FP_NS_PER_MS);
    pthread_join(waker, NULL);

    /* Nor if another takes what there is right after it. */
    CHECK_EQ(fp_mailbox_rest(mailbox, FP_NS_PER_MS), -ETIMEDOUT);
    CHECK_EQ(fp_mailbox_wake(mailbox), 0);
    CHECK_EQ(fp_mailbox_take(mailbox, news, 2, 0), 1);
    CHECK_EQ(fp_mailbox_take(mailbox, news, 2, 0), -ETIMEDOUT);
    CHECK_EQ(fp_mailbox_rest(mailbox, 5 * FP_NS_PER_S), 0);
    proc = fp_proc_free(proc);
    proc = handle(mailbox, 7);
    fp_mailbox_post(mailbox, proc, FP_NEWS_DONE);

    /* What came meanwhile is told to who listens again. */
    CHECK_EQ(fp_mailbox_take(mailbox, news, 2, -1), 1);
    CHECK_EQ(news[0].token, 7);
    fp_proc_free(proc);
    fp_mailbox_free(mailbox);
}

static void orphans_come_first_and_without_a_token(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_proc *proc = handle(mailbox, 9);
    fp_exit exit = {.state = FP_STATE_DONE, .pid = 4242, .code = 3};
    fp_news news[4];

    fp_mailbox_post(mailbox, proc, FP_NEWS_DONE);
    fp_mailbox_post_orphan(mailbox, &exit);
    exit.pid++;
    fp_mailbox_post_orphan(mailbox, &exit);
    fp_mailbox_post_orphan(NULL, &exit);
    CHECK_EQ(fp_mailbox_take(mailbox, news, 4, 0), 3);
    CHECK_EQ(news[0].what, FP_NEWS_ORPHAN);
    CHECK_EQ(news[0].exit.pid, 4242);
    CHECK_EQ(news[1].exit.pid, 4243);
    CHECK_EQ(news[1].token, 0);
    CHECK_EQ(news[2].token, 9);
    fp_mailbox_post_orphan(mailbox, &exit);
    CHECK_EQ(fp_mailbox_take(mailbox, news, 1, 0), 1);
    CHECK_EQ(news[0].exit.code, 3);
    fp_proc_free(proc);
    fp_mailbox_free(mailbox);
}

static void what_is_waiting_is_freed_with_the_mailbox(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_exit exit = {.pid = 5};
    fp_proc *kept = handle(mailbox, 1);
    for (int i = 0; i < 10; i++) {
        fp_proc *proc = handle(mailbox, 2);
        fp_mailbox_post(mailbox, proc, FP_NEWS_DONE);
        fp_proc_free(proc);
        fp_mailbox_post_orphan(mailbox, &exit);
    }
    fp_mailbox_post(mailbox, kept, FP_NEWS_EXITED);
    CHECK(!fp_mailbox_free(mailbox));
    /* `kept` still names it: posts to a closed mailbox go nowhere. */
    fp_mailbox_post(mailbox, kept, FP_NEWS_DONE);
    fp_mailbox_post_orphan(mailbox, &exit);
    CHECK(!kept->in_mail);
    fp_proc_free(kept);
}

static void a_failure_comes_with_its_news(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_proc *proc = handle(mailbox, 6);
    fp_failure failure = {.error = ENOENT, .stage = FP_STAGE_EXEC, .detail = -1};
    fp_news news;

    fp_proc_fail(proc, &failure);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 0), 1);
    CHECK_EQ(news.what, FP_NEWS_FAILED);
    CHECK_EQ(news.failure.error, ENOENT);
    CHECK_EQ(news.failure.stage, FP_STAGE_EXEC);
    CHECK_EQ(news.exit.state, FP_STATE_FAILED);
    CHECK_EQ(news.exit.reason, FP_REASON_NONE);
    fp_proc_free(proc);
    fp_mailbox_free(mailbox);
}

enum { POSTERS = 4, POSTS = 3000, SHARED = 16 };

typedef struct office {
    fp_mailbox *mailbox;
    fp_proc *procs[SHARED];
    uint64_t next_token;
} office;

/* Each posts about processes of its own, which are forgotten at once, and about shared ones. */
static void *post_many(void *arg) {
    office *o = arg;
    for (int i = 0; i < POSTS; i++) {
        fp_proc *own = handle(o->mailbox, 1000);
        fp_mailbox_post(o->mailbox, own, FP_NEWS_DONE);
        fp_mailbox_post(o->mailbox, o->procs[i % SHARED], FP_NEWS_OUTPUT);
        if (i % 16 == 0)
            fp_mailbox_wake(o->mailbox);
        fp_proc_free(own);
    }
    fp_proc *last = handle(o->mailbox, 2000);
    fp_mailbox_post(o->mailbox, last, FP_NEWS_DONE);
    fp_proc_free(last);
    return NULL;
}

static void posters_and_a_taker_lose_nothing(void) {
    office o = {.mailbox = new_mailbox()};
    pthread_t threads[POSTERS];
    int own = 0, last = 0;

    for (int i = 0; i < SHARED; i++)
        o.procs[i] = handle(o.mailbox, (uint64_t)i);
    for (int i = 0; i < POSTERS; i++)
        pthread_create(&threads[i], NULL, post_many, &o);
    while (last < POSTERS) {
        fp_news news[32];
        int n = fp_mailbox_take(o.mailbox, news, 32, 10 * FP_NS_PER_S);
        if (n < 0) {
            CHECK_EQ(n, 0);
            break;
        }
        for (int i = 0; i < n; i++) {
            own += news[i].token == 1000;
            last += news[i].token == 2000;
        }
    }
    CHECK_EQ(own, POSTERS * POSTS);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < SHARED; i++)
        fp_proc_free(o.procs[i]);
    fp_mailbox_free(o.mailbox);
}

static void nobody_but_a_listener_costs_a_write(void) {
    fp_mailbox *mailbox = new_mailbox();
    fp_proc *proc = handle(mailbox, 1);
    fp_news news;
    uint64_t count;

    fp_mailbox_post(mailbox, proc, FP_NEWS_DONE);
    CHECK_EQ(fp_mailbox_take(mailbox, &news, 1, 0), 1);
    int fd = fp_mailbox_fd(mailbox);
    CHECK(!is_readable(fd));
    for (int i = 0; i < 5; i++)
        fp_mailbox_post(mailbox, proc, FP_NEWS_DONE);
    CHECK_EQ(read(fd, &count, sizeof count), sizeof count);
    CHECK_EQ(count, 1);
    fp_proc_free(proc);
    fp_mailbox_free(mailbox);
}

int main(void) {
    if (fp_supervisor_new(NULL, &supervisor) < 0)
        return 1;
    RUN(an_empty_mailbox_says_so_in_time);
    RUN(the_patient_leave_what_nobody_is_woken_for);
    RUN(many_news_are_told_at_once);
    RUN(patience_has_an_end);
    RUN(news_about_one_process_are_one_entry);
    RUN(many_are_taken_in_order_and_none_is_lost);
    RUN(the_descriptor_is_readable_while_there_are_news);
    RUN(forgetting_takes_out_of_any_place);
    RUN(a_wake_up_is_heard_once);
    RUN(who_rests_is_woken_by_no_news);
    RUN(orphans_come_first_and_without_a_token);
    RUN(what_is_waiting_is_freed_with_the_mailbox);
    RUN(a_failure_comes_with_its_news);
    RUN(posters_and_a_taker_lose_nothing);
    RUN(nobody_but_a_listener_costs_a_write);
    fp_supervisor_free(supervisor);
    return check_result();
}
