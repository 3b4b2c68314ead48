//! What is checked after each operation: every page of every space, frames and statistics.

use super::{Driver, Subject};
use crate::checks::{Check, Violation, ensure};
use crate::host::{FIRST_FRAME, Host};
use crate::platform::{Platform, memory, permissions};
use crate::specification::{Architecture, Backing, Marks, Origin, Page};
use crate::watch::Target;
use slat::{GuestPhysAddr, MappingFlags, PAGE_SIZE, QueryError};
use slat_model::{Access, AccessKind, FaultKind, Source};

impl<P: Platform> Driver<'_, P> {
    /// All checks that follow an operation.
    pub(super) fn check(&mut self, index: usize) -> Result<(), Violation> {
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
        let flags = spec.map_or(MappingFlags::empty(), Page::grants);
        let rules = self.host.rules();
        let (granted, kind) = (permissions(rules, flags), memory(rules, flags));
        let marks = spec.map_or_else(Marks::default, |spec| spec.marks);
        let shares = subject.shares || marks.held;
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
                let waits = marks.idle
                    || subject.shares && (absent || only_written)
                    || shares && access.kind == AccessKind::Write;
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
                            let weaker =
                                marks.weaker && pass == Some(seen.hpa) && seen.permissions == read_only;
                            let stale = weaker && seen.memory == kind
                                || owed.is_some_and(|owed| {
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
        let shared = match spec.map(|spec| spec.backing) {
            Some(Backing::Shared { memory, page, hpa: Some(_) }) => Some((memory, page)),
            Some(Backing::Private { memory, page, seen: Some(_), .. }) => Some((memory, page)),
            _ => None,
        };
        if let Some((memory, page)) = shared {
            self.shared[memory].as_ref().map_or(Ok(()), |shared| shared.check(self.host, page))?;
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

    /// What everything in the frames amounts to, where an error is to be seen to leave it alone: looked at where that
    /// is cheap, and not while a debt is pending, which any operation may discharge.
    pub(crate) fn fingerprint(&self, index: usize) -> Option<(usize, u64)> {
        let small = self.host.taken() < 200;
        let look = small && self.subjects[index].owed.is_none() && self.settings.failing;
        // Tables that were copied for a change stay when it fails: the guest sees no difference.
        (look && !self.subjects[index].shares).then(|| (self.host.taken(), self.host.fingerprint()))
    }

    /// As [`fingerprint`](Self::fingerprint), before what copies no table.
    pub(crate) fn fingerprint_exactly(&self, index: usize) -> Option<(usize, u64)> {
        let look = self.host.taken() < 200 && self.subjects[index].owed.is_none() && self.settings.failing;
        look.then(|| (self.host.taken(), self.host.fingerprint()))
    }

    /// An operation failed: everything is as before. The guest may have written meanwhile.
    pub(crate) fn untouched(&self, before: Option<(usize, u64)>) -> Result<(), Violation> {
        let watch = self.host.watch.borrow();
        let others = self.host.bystanders.borrow();
        let mut watches = others.iter().map(|(_, watch)| watch).chain([&*watch]);
        let written = watches.any(|watch| (0..watch.pages()).any(|page| watch.word(page).is_some()));
        let Some(before) = before.filter(|_| !written && !self.host.rules().marks) else { return Ok(()) };
        let after = (self.host.taken(), self.host.fingerprint());
        ensure(before == after, Check::Untouched, || format!("{before:x?} became {after:x?}"))
    }
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
            let dirty = if spec.marks.cleared { spec.marks.dirty } else { written };
            if dirty && !mapping.dirty {
                return Err(Violation::new(Check::Marks, format!("{gpa:#x} was written and is clean")));
            }
            let flags = rules.seen(spec.grants());
            // Until it is written to, what is shared is nobody's, and read only.
            let held = subject.shares || spec.marks.held;
            let shared = held && mapping.flags == flags - MappingFlags::WRITE;
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
                (slat::Backend::Shared { offset: first, .. }, Backing::Shared { page, .. })
                | (slat::Backend::Private { offset: first, .. }, Backing::Private { page, .. }) => {
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
