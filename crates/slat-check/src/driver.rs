//! Runs slat, the model and the specification side by side.

mod check;

use crate::checks::{Check, Violation, ensure};
use crate::forks::Kept;
use crate::host::Host;
use crate::lending::SharedState;
use crate::operation::{Command, Operation, encode};
use crate::paging::Paged;
use crate::platform::Platform;
use crate::random::Random;
use crate::shape::Shape;
use crate::specification::{Backing, Frame, Page, Specification};
use crate::watch::{Expected, Target, Watch};
use slat::{AddrSpace, AuditRecord, GuestPhysAddr, GuestPhysRange, Mapping, MappingFlags, PAGE_SIZE};
use slat_model::{Access, AccessKind};

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
    /// Pages of the space at hand of whose use the operation has taken note itself.
    pub(crate) noted: std::ops::Range<usize>,
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
            noted: 0..0,
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
        self.noted = 0..0;
    }

    /// What may be seen of a space before anything happens to it.
    fn begin_watch_of(&self, index: usize, mut watch: Watch) -> Watch {
        let subject = &self.subjects[index];
        watch.begin(&self.shape, self.cpus_running(index));
        for (page, spec) in &subject.specification.pages {
            if let Some(hpa) = spec.target() {
                watch.allow(*page, Expected { flags: spec.grants(), target: Target::Exact(hpa) });
            }
            if spec.marks.held || spec.marks.weaker {
                watch.hold(*page);
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
            // And they invalidate what they copy or link alone.
            if !way {
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
            let (used, written) = watch.uses(*page);
            spec.marks.note_use(used, written);
            let Some(word) = watch.word(*page) else { continue };
            match &mut spec.backing {
                Backing::Alloc { frame: Some(frame), .. } | Backing::Private { copy: Some(frame), .. } => {
                    (frame.word, frame.written) = (word, true);
                }
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
            let leaf = leaf_at(space, gpa);
            let found =
                leaf.map(|mapping| mapping.hpa.as_u64().wrapping_add(gpa.wrapping_sub(mapping.gpa.as_u64())));
            if !self.noted.contains(page) {
                let (used, written) = watch.uses(*page);
                spec.marks.note_use(used, written);
            }
            spec.marks.note_leaf(spec.has_leaf(), found.is_some());
            if let Backing::Shared { memory, page: number, hpa } = &mut spec.backing {
                let state = self.shared[*memory].as_mut().expect("it was mapped");
                state.adopt(self.host, &watch, (*page, self.planned[*page]), *number, (hpa, found))?;
                continue;
            }
            let paged = spec.paged();
            let frame = match &mut spec.backing {
                Backing::Alloc { frame, .. } => frame,
                Backing::Private { memory, page: number, seen, copy } => {
                    let state = self.shared[*memory].as_mut().expect("it was mapped");
                    let copied = copy.is_some() || leaf.is_some_and(|leaf| leaf.owned);
                    if !copied {
                        state.adopt_seen(
                            self.host,
                            &watch,
                            (*page, self.planned[*page]),
                            *number,
                            (seen, found),
                        )?;
                        continue;
                    }
                    *seen = None;
                    copy
                }
                _ => continue,
            };
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
