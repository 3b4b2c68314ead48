//! Runs slat, the model and the specification side by side.

use crate::checks::{Check, Violation, ensure};
use crate::forks::Kept;
use crate::host::{FIRST_FRAME, Host};
use crate::lending::SharedState;
use crate::operation::{Command, Operation, encode};
use crate::paging::Paged;
use crate::platform::{Platform, memory, permissions};
use crate::random::Random;
use crate::shape::Shape;
use crate::specification::{Architecture, Backing, Frame, Origin, Page, Specification};
use crate::watch::{Expected, Target, Watch};
use slat::{
    AddrSpace, AuditRecord, GuestPhysAddr, GuestPhysRange, Mapping, MappingFlags, PAGE_SIZE, QueryError,
};
use slat_model::{Access, AccessKind, FaultKind, Source};

/// Room around the shape in which the space is and nothing is ever mapped.
const MARGIN: u64 = 16 * PAGE_SIZE;

/// Allocations that fail in turn where there are large leaves; all of them where there are none.
const MOST_FAILURES: u64 = 8;

/// How a sequence is run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// CPUs.
    pub cpus: usize,
    /// Spaces.
    pub spaces: usize,
    /// Lets each allocation of each operation fail once.
    pub failing: bool,
    /// Seed for what the guest does meanwhile.
    pub seed: u64,
}

/// A space under test; its custom backend is the host too.
pub(crate) type Space<'h, P> = AddrSpace<&'h Host<P>, P, &'h Host<P>>;

/// One space with its specification.
pub(crate) struct Subject<'h, P: Platform> {
    pub(crate) space: Option<Space<'h, P>>,
    pub(crate) tag: u16,
    pub(crate) specification: Specification,
    /// What CPUs may still use because a debt was forgotten.
    pub(crate) owed: Option<Vec<Vec<Expected>>>,
    /// A debt was forgotten, and no operation that may discharge it has invalidated since.
    pub(crate) forgot: bool,
    /// It may have memory in common with forks and snapshots: what can be written to may lack that permission, or not be
    /// there at all, until a fault is answered.
    pub(crate) shares: bool,
    /// What it can go back to; dropped after the space.
    pub(crate) snapshot: Option<Kept<'h, P>>,
}

impl<'h, P: Platform> Subject<'h, P> {
    pub(crate) fn space(&self) -> &Space<'h, P> {
        self.space.as_ref().expect("a space is missing only while it is replaced")
    }

    pub(crate) fn space_mut(&mut self) -> &mut Space<'h, P> {
        self.space.as_mut().expect("a space is missing only while it is replaced")
    }
}

/// The spaces under test, on one host.
pub struct Driver<'h, P: Platform> {
    pub(crate) host: &'h Host<P>,
    pub(crate) shape: Shape,
    pub(crate) subjects: Vec<Subject<'h, P>>,
    pub(crate) settings: Settings,
    pub(crate) random: Random,
    /// Where the frame of each page may come from in this operation, if not from before it.
    pub(crate) planned: Vec<Option<Target>>,
    /// What several spaces can map.
    pub(crate) shared: [Option<SharedState<'h, P>>; 2],
    /// The pages that were shared memory when the operation began: page, memory, and page of that.
    pub(crate) shared_before: Vec<(usize, usize, u64)>,
    /// What was paged out.
    pub(crate) paged: Paged,
    /// What audits are made with.
    pub(crate) scratch: Vec<AuditRecord>,
}

impl<'h, P: Platform> Driver<'h, P> {
    /// Empty spaces.
    ///
    /// # Errors
    /// A violation while they are made.
    pub fn new(host: &'h Host<P>, shape: Shape, settings: Settings) -> Result<Self, Violation> {
        let planned = vec![None; shape.pages.len()];
        let random = Random::new(settings.seed ^ 0x1234);
        let scratch = vec![];
        let mut driver = Self {
            host,
            shape,
            subjects: vec![],
            settings,
            random,
            planned,
            shared: [None, None],
            shared_before: vec![],
            paged: Paged::default(),
            scratch,
        };
        for index in 0..settings.spaces {
            let tag = index as u16 + 1;
            let specification = Specification::default();
            driver.subjects.push(Subject {
                space: None,
                tag,
                specification,
                owed: None,
                forgot: false,
                shares: false,
                snapshot: None,
            });
            driver.make_space(index)?;
        }
        for cpu in 0..settings.cpus {
            driver.run_on(cpu, cpu % settings.spaces)?;
        }
        Ok(driver)
    }

    pub(crate) fn make_space(&mut self, index: usize) -> Result<(), Violation> {
        let base = self.shape.start() - MARGIN;
        let size = self.shape.end() + MARGIN - base;
        let tag = self.subjects[index].tag;
        let space = AddrSpace::with_backend(
            self.host,
            *self.host.platform(),
            GuestPhysAddr::new(base),
            size,
            tag,
            self.host,
        )
        .map_err(|error| Violation::new(Check::Verdict, format!("a new space: {error}")))?;
        self.host.watch_root(space.root().as_u64());
        self.subjects[index].space = Some(space);
        Ok(())
    }

    /// Lets a CPU run a space.
    pub(crate) fn run_on(&mut self, cpu: usize, index: usize) -> Result<(), Violation> {
        let subject = &self.subjects[index];
        let root = self.host.platform().root(subject.space().root_register(), subject.tag);
        let mut machine = self.host.machine.borrow_mut();
        if machine.root(cpu) == Some(root) {
            return Ok(());
        }
        machine.load_root(cpu, root).map_err(|invalid| Violation::new(Check::Root, invalid.to_string()))?;
        if P::TABLE == slat::TableKind::Stage2 {
            machine.execute(cpu, slat_model::Instruction::Isb);
        }
        Ok(())
    }

    pub(crate) fn cpus_running(&self, index: usize) -> Vec<usize> {
        let subject = &self.subjects[index];
        let root = self.host.platform().root(subject.space().root_register(), subject.tag);
        let machine = self.host.machine.borrow();
        (0..self.settings.cpus).filter(|cpu| machine.root(*cpu) == Some(root)).collect()
    }

    /// Runs one command with all checks.
    ///
    /// # Errors
    /// The first violation.
    pub fn apply(&mut self, command: &Command) -> Result<(), Violation> {
        let index = usize::from(command.space) % self.subjects.len();
        let mut failing = self.settings.failing.then_some(0);
        // What else happens depends on the command alone, so that it stays when others are left out.
        let own = encode(std::slice::from_ref(command)).iter().fold(self.settings.seed, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3).rotate_left(13)
        });
        self.random = Random::new(own);
        self.host.reseed(own);
        loop {
            let cpu = match &command.operation {
                Operation::Fault { cpu, .. } | Operation::Access { cpu, .. } => usize::from(*cpu),
                _ => self.random.number() as usize,
            } % self.settings.cpus;
            self.host.fail_after(failing);
            self.apply_once(index, cpu, &command.operation)?;
            // Where the host has no frame left anyway, one refusal is like the other.
            let refused = self.host.refused() > 0 && self.host.has_injected();
            self.host.fail_after(None);
            match &mut failing {
                Some(successes) if refused => {
                    *successes += 1;
                    // A large range takes hundreds of frames, one like the other.
                    if !self.shape.complete && *successes == MOST_FAILURES {
                        failing = None;
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    fn apply_once(&mut self, index: usize, cpu: usize, operation: &Operation) -> Result<(), Violation> {
        self.host.begin(cpu);
        self.run_on(cpu, index)?;
        self.begin_watch(index);
        let executed = self.execute(index, cpu, operation);
        self.host.end();
        if let Some(violation) = self.host.violation() {
            return Err(violation);
        }
        executed?;
        self.note_debt(index, operation);
        self.adopt(index)?;
        self.check(index)
    }

    fn begin_watch(&mut self, index: usize) {
        let others = (0..self.subjects.len()).filter(|other| *other != index);
        let bystanders = others.map(|other| (other, self.begin_watch_of(other, Watch::default()))).collect();
        *self.host.bystanders.borrow_mut() = bystanders;
        let watch = self.host.watch.take();
        let watch = self.begin_watch_of(index, watch);
        *self.host.watch.borrow_mut() = watch;
        let subject = &self.subjects[index];
        let shared = |(page, spec): (&usize, &Page)| match spec.backing {
            Backing::Shared { memory, page: number, hpa: Some(_) } => Some((*page, memory, number)),
            _ => None,
        };
        self.shared_before.clear();
        self.shared_before.extend(subject.specification.pages.iter().filter_map(shared));
        self.planned.fill(None);
    }

    /// What may be seen of a space before anything happens to it.
    fn begin_watch_of(&self, index: usize, mut watch: Watch) -> Watch {
        let subject = &self.subjects[index];
        watch.begin(&self.shape, self.cpus_running(index));
        for (page, spec) in &subject.specification.pages {
            if let Some(hpa) = spec.target() {
                watch.allow(*page, Expected { flags: spec.flags, target: Target::Exact(hpa) });
            }
        }
        for (page, allowed) in subject.owed.iter().flatten().enumerate() {
            allowed.iter().for_each(|expected| watch.allow(page, *expected));
        }
        if subject.shares {
            watch.share();
        }
        watch
    }

    /// Remembers what CPUs may go on using if an invalidation is still owed.
    fn note_debt(&mut self, index: usize, operation: &Operation) {
        let forgotten = matches!(operation, Operation::Batch(_, crate::operation::BatchEnd::Forget));
        let subject = &mut self.subjects[index];
        if forgotten {
            let watch = self.host.watch.borrow();
            let exact = |page| {
                let allowed = watch.allowed(page).iter().copied();
                allowed.filter(|expected| matches!(expected.target, Target::Exact(_))).collect()
            };
            subject.owed = Some((0..watch.pages()).map(exact).collect());
            subject.forgot = true;
        } else if self.host.invalidated() {
            // Those make way for the guest, and leave the rest to the next change.
            let way = matches!(
                operation,
                Operation::Fault { .. }
                    | Operation::Access { .. }
                    | Operation::Populate { .. }
                    | Operation::Host(_)
                    | Operation::Pin(_)
            );
            subject.forgot &= way;
            // And they invalidate what they copy alone.
            if !(way && subject.shares) {
                subject.owed = None;
            }
        }
    }

    /// The guest may have written to shared memory that was unmapped in the same operation.
    pub(crate) fn note_words_of_shared_memory(&mut self) {
        let watch = self.host.watch.borrow();
        for (page, memory, number) in self.shared_before.drain(..) {
            if let (Some(_), Some(shared)) = (watch.word(page), &mut self.shared[memory]) {
                shared.wrote(self.host, number);
            }
        }
    }

    /// Takes over what the guest of a space to which nothing happened wrote meanwhile.
    pub(crate) fn adopt_words(&mut self, index: usize) {
        let bystanders = self.host.bystanders.borrow();
        let Some((_, watch)) = bystanders.iter().find(|(other, _)| *other == index) else { return };
        for (page, spec) in &mut self.subjects[index].specification.pages {
            let Some(word) = watch.word(*page) else { continue };
            match &mut spec.backing {
                Backing::Alloc { frame: Some(frame), .. } => (frame.word, frame.written) = (word, true),
                Backing::Shared { memory, page, .. } => {
                    if let Some(shared) = &mut self.shared[*memory] {
                        shared.wrote(self.host, *page);
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes over from slat which frames it chose, after checking that it may have.
    fn adopt(&mut self, index: usize) -> Result<(), Violation> {
        self.note_words_of_shared_memory();
        (0..self.subjects.len()).for_each(|other| self.adopt_words(other));
        let watch = self.host.watch.borrow();
        let subject = &mut self.subjects[index];
        let space = subject.space.as_ref().expect("there again");
        for (page, spec) in &mut subject.specification.pages {
            let gpa = watch.gpa(*page);
            let found = leaf_at(space, gpa)
                .map(|mapping| mapping.hpa.as_u64().wrapping_add(gpa.wrapping_sub(mapping.gpa.as_u64())));
            if let Backing::Shared { memory, page: number, hpa } = &mut spec.backing {
                let state = self.shared[*memory].as_mut().expect("it was mapped");
                state.adopt(self.host, &watch, (*page, self.planned[*page]), *number, (hpa, found))?;
                continue;
            }
            let paged = spec.paged();
            let Backing::Alloc { frame, .. } = &mut spec.backing else { continue };
            let changed = match (&frame, found) {
                (None, None) => None,
                (Some(frame), Some(hpa)) if frame.hpa == hpa => None,
                (Some(frame), None) => {
                    let detail = format!("page {gpa:#x} lost its frame {:#x}", frame.hpa);
                    return Err(Violation::new(Check::Query, detail));
                }
                (_, Some(hpa)) => Some(hpa),
            };
            if let Some(hpa) = changed {
                let planned = self.planned[*page].ok_or(Check::Query);
                planned
                    .and_then(|target| watch.frame_fits(self.host, *page, target, hpa).map(|()| target))
                    .map_err(|check| {
                    let was = frame.map(|frame| frame.hpa);
                    Violation::new(check, format!("page {gpa:#x} has {hpa:#x} instead of {was:x?}"))
                })?;
                let word = self.host.ram().read(hpa).unwrap_or_default();
                if frame.is_none() && watch.word(*page).is_none() {
                    self.paged.check_page_in(self.host, paged, hpa)?;
                }
                let written = frame.is_some_and(|frame| frame.written);
                *frame = Some(Frame { hpa, word, written });
            }
            if let (Some(frame), Some(word)) = (frame, watch.word(*page)) {
                frame.word = word;
                frame.written = true;
            }
        }
        Ok(())
    }

    /// All checks that follow an operation.
    fn check(&mut self, index: usize) -> Result<(), Violation> {
        for other in 0..self.subjects.len() {
            let cpus = self.cpus_running(other);
            for page in 0..self.shape.pages.len() {
                self.check_page(other, &cpus, page)?;
            }
        }
        self.check_isolation()?;
        self.check_limit(index)?;
        self.check_frames()?;
        self.paged.check(self.host)?;
        self.host.ledger.check()?;
        self.audit_in_turn()?;
        let reports = self.host.machine.borrow_mut().take_reports();
        ensure(reports.is_empty(), Check::Architecture, || format!("{:x?}", reports.first()))?;
        self.host.violation().map_or(Ok(()), Err)
    }

    fn check_page(&mut self, index: usize, cpus: &[usize], page: usize) -> Result<(), Violation> {
        let gpa = self.shape.pages[page];
        let subject = &self.subjects[index];
        let spec = subject.specification.page(page);
        check_query(self.host, subject, gpa, spec)?;
        let target = spec.and_then(Page::target);
        let flags = spec.map_or(MappingFlags::empty(), |page| page.flags);
        let rules = self.host.rules();
        let (granted, kind) = (permissions(rules, flags), memory(rules, flags));
        let shares = subject.shares;
        let read_only = permissions(rules, flags - MappingFlags::WRITE);
        let grants = |seen| seen == granted || shares && seen == read_only;
        // What is written to is copied first; and where a table entry has no permissions, a shared table is no table.
        let absent = matches!(rules.architecture, Architecture::Stage2 | Architecture::Gstage);
        let only_written = !rules.seen(flags - MappingFlags::WRITE).is_accessible();
        let owed = subject.owed.as_ref().map(|owed| owed[page].as_slice());
        // Arm: where a large leaf was split, its pages are not present until the debt is discharged or a fault asks.
        let broken = owed.is_some() && rules.architecture == Architecture::Stage2;
        for (number, cpu) in cpus.iter().enumerate() {
            let accesses = [Access::READ, Access::WRITE, Access::EXECUTE, Access::EXECUTE.by_user()];
            // All kinds of access on one CPU, one kind on each of the others.
            let some = self.random.below(4) as usize;
            let accesses = if number == 0 { &accesses[..] } else { &accesses[some..=some] };
            for access in accesses {
                let pass = target.filter(|_| granted.allow(*access));
                let waits = shares && (absent || only_written || access.kind == AccessKind::Write);
                let (mut found, mut unmarked) = (false, false);
                for outcome in self.host.possible(*cpu, gpa, *access) {
                    let fail = |check, what: &str| {
                        let detail = format!(
                            "{access:?} of {gpa:#x} on CPU {cpu}: {what}; {outcome:x?} where {spec:x?} is expected"
                        );
                        Err(Violation::new(check, detail))
                    };
                    match outcome.result {
                        Ok(seen) => {
                            let right =
                                pass == Some(seen.hpa) && grants(seen.permissions) && seen.memory == kind;
                            let stale = owed.is_some_and(|owed| {
                                owed.iter().any(|old| {
                                    old.target == Target::Exact(seen.hpa)
                                        && seen.permissions == permissions(rules, old.flags)
                                        && seen.memory == memory(rules, old.flags)
                                })
                            });
                            found |= right;
                            if !right && outcome.source == Source::Walk {
                                return fail(Check::Walk, "a walk finds something else");
                            }
                            if !right && !stale {
                                return fail(Check::Stale, "something else is still remembered");
                            }
                        }
                        // The guest's next access sets the mark, by a fault.
                        Err(fault) if rules.marks_by_fault && fault.kind == FaultKind::AccessFlag => {
                            unmarked = true;
                        }
                        Err(_) if pass.is_some() && outcome.source == Source::Walk => {
                            if !(broken || waits) {
                                return fail(Check::Walk, "a walk faults");
                            }
                        }
                        Err(_) => {}
                    }
                }
                ensure(pass.is_none() || found || broken || unmarked || waits, Check::Walk, || {
                    format!("{gpa:#x}: {spec:x?} is not found")
                })?;
            }
        }
        if let Some(Page { backing: Backing::Shared { memory, page, hpa: Some(_) }, .. }) = spec {
            self.shared[*memory].as_ref().map_or(Ok(()), |shared| shared.check(self.host, *page))?;
        }
        if let Some(frame) = spec.and_then(Page::owned) {
            let word = self.host.ram().read(frame.hpa);
            ensure(word == Some(frame.word), Check::Contents, || {
                format!("{gpa:#x} holds {word:x?} instead of {:#x}", frame.word)
            })?;
        }
        Ok(())
    }

    /// The run that `translate_and_get_limit` promises is what the specification has there.
    fn check_limit(&mut self, index: usize) -> Result<(), Violation> {
        if !self.shape.complete {
            return Ok(());
        }
        let page = self.random.below(self.shape.pages.len() as u64) as usize;
        let subject = &self.subjects[index];
        let only_written = |page: &Page| {
            page.flags.contains(MappingFlags::WRITE) && !page.flags.contains(MappingFlags::READ)
        };
        if subject.shares && subject.specification.pages.values().any(only_written) {
            // What can only be written to may not be there while it is shared.
            return Ok(());
        }
        let target = |page: usize| subject.specification.page(page).and_then(Page::target);
        let expected = target(page).map(|first| {
            let run = (page..self.shape.pages.len())
                .take_while(|next| target(*next) == Some(first + (next - page) as u64 * PAGE_SIZE));
            (first + 0x10, run.count() as u64 * PAGE_SIZE - 0x10)
        });
        let gpa = GuestPhysAddr::new(self.shape.pages[page] + 0x10);
        let limit = subject.space().translate_and_get_limit(gpa).map(|(hpa, limit)| (hpa.as_u64(), limit));
        ensure(limit == expected, Check::Query, || format!("{gpa:#x}: {limit:x?} instead of {expected:x?}"))
    }

    /// Frames and statistics add up.
    fn check_frames(&self) -> Result<(), Violation> {
        let mut counted = 0;
        let mut tables = 0;
        let mut owned: Vec<u64> = vec![];
        // What versions keep that no space has any more is counted nowhere: it comes back in the end.
        let mut versions = 0;
        for subject in &self.subjects {
            let stats = subject.space().stats();
            let frames = stats.table.owned_frames + stats.table.table_frames;
            counted += frames as usize + stats.region_frames + stats.shared_frames + stats.spare_frames;
            tables += stats.table.table_frames as usize;
            versions += stats.versions;
            if let Some((snapshot, _)) = &subject.snapshot {
                let stats = snapshot.space().stats();
                let frames = stats.table.owned_frames + stats.table.table_frames;
                counted += frames as usize + stats.region_frames + stats.shared_frames;
                versions += 1;
            }
            let frames = subject.specification.pages.values().filter_map(Page::owned).map(|frame| frame.hpa);
            let mut frames: Vec<u64> = frames.collect();
            frames.sort_unstable();
            let twice = frames.windows(2).find(|pair| pair[0] == pair[1]);
            ensure(twice.is_none(), Check::Balance, || format!("two pages share the frame {twice:x?}"))?;
            if !subject.shares {
                owned.append(&mut frames);
            }
            let regions = subject.space().regions().count();
            ensure(stats.regions == regions, Check::Statistics, || format!("{regions} regions: {stats:?}"))?;
            if self.shape.complete && subject.owed.is_none() {
                let pages = subject.specification.pages.values();
                let leaves = pages.clone().filter(|page| page.has_leaf());
                let ours = pages.filter(|page| page.is_owned() && page.has_leaf()).count() as u64;
                let (leaves, table) = (leaves.count() as u64, stats.table);
                ensure(
                    (table.leaves_4k, table.leaves_2m, table.leaves_1g) == (leaves, 0, 0)
                        && (table.owned_frames == ours || subject.shares && table.owned_frames < ours),
                    Check::Statistics,
                    || format!("{table:?} where {leaves} leaves are, {ours} of them owned"),
                )?;
            }
        }
        counted += self.host.lent();
        for shared in self.shared.iter().flatten() {
            counted += shared.memory.frames() as usize;
            owned.extend(shared.frames.values().map(|frame| frame.hpa));
        }
        let taken = self.host.taken();
        ensure(taken == counted || versions > 0 && taken > counted, Check::Balance, || {
            format!("{taken} frames are taken, {counted} accounted for")
        })?;
        let linked = self.host.linked_tables();
        // Arm: a table that waits for a forgotten debt takes its place later.
        let wait = self.host.rules().architecture == Architecture::Stage2
            && self.subjects.iter().any(|subject| subject.owed.is_some());
        let right = linked == tables || wait && linked < tables || versions > 0 && linked > tables;
        ensure(right, Check::Statistics, || format!("{linked} tables are linked, {tables} counted"))?;
        owned.sort_unstable();
        let shared = owned.windows(2).find(|pair| pair[0] == pair[1]);
        ensure(shared.is_none(), Check::Balance, || format!("two pages share the frame {shared:x?}"))
    }

    /// Drops all spaces; every frame must have come back.
    ///
    /// # Errors
    /// The violation.
    pub fn finish(mut self) -> Result<(), Violation> {
        self.audit()?;
        self.host.begin(0);
        self.host.bystanders.borrow_mut().clear();
        for cpu in 0..self.settings.cpus {
            self.host.machine.borrow_mut().unload_root(cpu);
        }
        self.host.watch.borrow_mut().begin(&self.shape, vec![]);
        // Shared memory lives as long as either a handle or a space.
        if self.settings.seed % 2 == 0 {
            self.shared = [None, None];
        }
        // Whatever is dropped first.
        if self.settings.seed % 3 == 0 {
            self.subjects.iter_mut().for_each(|subject| subject.snapshot = None);
        }
        if self.settings.seed % 5 < 2 {
            self.subjects.reverse();
        }
        self.subjects.clear();
        self.shared = [None, None];
        self.host.end();
        self.host.violation().map_or(Ok(()), Err)?;
        self.host.ledger.check()?;
        let taken = self.host.taken();
        ensure(taken == 0, Check::Balance, || format!("{taken} frames never came back"))
    }
}

/// The leaf around an address, also one without access.
pub(crate) fn leaf_at<P: Platform>(space: &Space<'_, P>, gpa: u64) -> Option<Mapping> {
    let range = GuestPhysRange::new(GuestPhysAddr::new(gpa), PAGE_SIZE).ok()?;
    space.mappings(range).next()
}

/// What slat says of a page.
fn check_query<P: Platform>(
    host: &Host<P>,
    subject: &Subject<'_, P>,
    gpa: u64,
    spec: Option<&Page>,
) -> Result<(), Violation> {
    let (space, rules) = (subject.space(), host.rules());
    let at = GuestPhysAddr::new(gpa + 0x123);
    let target = spec.and_then(Page::target);
    let translated = space.translate(at).map(|hpa| hpa.as_u64().wrapping_sub(0x123));
    let query = space.query(at);
    let right = match (&query, spec, target) {
        (Ok(mapping), Some(spec), Some(target)) => {
            let owned = spec.is_owned();
            let written = spec.owned().is_some_and(|frame| frame.written);
            if written && !mapping.dirty {
                return Err(Violation::new(Check::Marks, format!("{gpa:#x} was written and is clean")));
            }
            let flags = rules.seen(spec.flags);
            // Until it is written to, what is shared is nobody's, and read only.
            let shared = subject.shares && mapping.flags == flags - MappingFlags::WRITE;
            let own = mapping.owned == owned || subject.shares && !mapping.owned;
            let write = mapping.flags.contains(MappingFlags::WRITE);
            mapping.hpa.as_u64().wrapping_add(gpa.wrapping_sub(mapping.gpa.as_u64())) == target
                && (mapping.flags == flags || shared)
                && own
                && (!(owned && write) || mapping.owned)
                && (!owned || target >= FIRST_FRAME)
        }
        (Err(QueryError::NotPresent { .. }), Some(spec), Some(_)) => {
            let rest = rules.seen(spec.flags - MappingFlags::WRITE);
            subject.shares && !rest.is_accessible() && translated.is_none()
        }
        (Err(QueryError::NotPresent { .. }), Some(_), None) | (Err(QueryError::NotMapped(_)), None, None) => {
            true
        }
        _ => false,
    };
    let found = translated == target || query.is_err() && translated.is_none();
    ensure(right && found, Check::Query, || {
        format!("{gpa:#x}: {query:x?} and {translated:x?} where {spec:x?} is expected")
    })?;
    let region = space.region(at);
    let agrees = match (&region, spec) {
        (None, None) => true,
        (Some(region), Some(spec)) => {
            let offset = gpa - region.range.start().as_u64();
            let backend = match (region.backend, spec.backing) {
                (slat::Backend::Linear { hpa }, Backing::Linear(wanted)) => hpa.as_u64() + offset == wanted,
                (slat::Backend::Alloc { .. }, Backing::Alloc { origin: Origin::Host, .. }) => true,
                (
                    slat::Backend::Custom { source, offset: first },
                    Backing::Alloc { origin: Origin::Custom(number, wanted), .. },
                )
                | (
                    slat::Backend::Paged { source, offset: first },
                    Backing::Alloc { origin: Origin::Pager(number, wanted), .. },
                ) => (source, first + offset) == (number, wanted),
                (slat::Backend::Shared { offset: first, .. }, Backing::Shared { page, .. }) => {
                    first + offset == page * PAGE_SIZE
                }
                (slat::Backend::Trap { device, offset: first }, Backing::Trap(number, wanted)) => {
                    (device.0, first + offset) == (number, wanted)
                }
                _ => false,
            };
            let rest = (region.flags, region.pins, region.in_children);
            backend && rest == (spec.flags, spec.pins, spec.in_children)
        }
        _ => false,
    };
    ensure(agrees, Check::Query, || format!("{gpa:#x}: {region:x?} where {spec:x?} is expected"))
}

/// The model's word for an access.
#[must_use]
pub fn model_access(access: MappingFlags) -> Access {
    let kind = if access.contains(MappingFlags::EXECUTE) {
        AccessKind::Execute
    } else if access.contains(MappingFlags::WRITE) {
        AccessKind::Write
    } else {
        AccessKind::Read
    };
    Access { user: access.contains(MappingFlags::USER), ..Access::new(kind) }
}
