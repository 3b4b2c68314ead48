//! A recording with one invalidation left out: the negative control of a replay.

use super::Recording;
use slat_hv_protocol::Mechanism;
use slat_hv_protocol::recording::{Event, Operation};

impl Recording {
    /// How many invalidations there are that can be left out: each TLBI of a guest's translations (Arm), each INVEPT (Intel), each
    /// VMRUN with a TLB_CONTROL and each change to another ASID for the same root (AMD), each HFENCE.GVMA or HINVAL.GVMA and each
    /// remote fence (RISC-V).
    pub(crate) fn flushes(&self) -> usize {
        self.flush_places().len()
    }

    /// The same without the invalidation of this number, counted from 0, and its place among the events; `None` if there are not
    /// so many.
    pub(crate) fn without_flush(&self, number: usize) -> Option<(Self, usize)> {
        let place = *self.flush_places().get(number)?;
        let mut events = self.events.clone();
        match &mut events.get_mut(place)?.1 {
            Event::Vmrun { tlb_control } => *tlb_control = 0,
            _ => _ = events.remove(place),
        }
        let header = &self.header;
        Some((Self::new(header.cpus, header.pool, header.started.clone(), events), place))
    }

    /// Their places among the events, in order.
    pub(crate) fn flush_places(&self) -> Vec<usize> {
        let amd = self.header.started.mechanism == Mechanism::Npt;
        let mut loaded = vec![None; self.header.cpus as usize];
        let mut places = Vec::new();
        for (place, (cpu, event)) in self.events.iter().enumerate() {
            let flushes = match *event {
                Event::Maintenance { operation, .. } => is_tlbi(operation),
                Event::Invept { .. } | Event::Fence { .. } | Event::RemoteFence { .. } => true,
                Event::Vmrun { tlb_control } => tlb_control != 0,
                Event::LoadTagged { root, tag } if amd => loaded
                    .get_mut(*cpu)
                    .and_then(|loaded| loaded.replace((root, tag)))
                    .is_some_and(|(same, other)| root == same && tag != other),
                _ => false,
            };
            if flushes {
                places.push(place);
            }
        }
        places
    }
}

/// Whether it drops translations of a guest.
fn is_tlbi(operation: Operation) -> bool {
    use Operation::{DsbIsh, DsbIshst, DsbNsh, DsbNshst, Isb, SfenceInvalIr, SfenceWInval, Vae2is};
    !matches!(operation, DsbIsh | DsbIshst | DsbNsh | DsbNshst | Isb | Vae2is | SfenceWInval | SfenceInvalIr)
}

#[cfg(test)]
mod tests {
    use super::super::tests::recording;
    use super::*;
    use slat_hv_protocol::Started;
    use slat_hv_protocol::recording::FenceKind;

    fn without(mechanism: Mechanism, events: &[Event]) -> Vec<Vec<Event>> {
        let started = Started { mechanism, ..Started::default() };
        let events: Vec<_> = events.iter().map(|event| (0, *event)).collect();
        let all = Recording::new(1, recording().header.pool, started, events.clone());
        let left = |number| {
            let (left, place) = all.without_flush(number).expect("there are so many");
            assert_eq!(left.events[..place], events[..place]);
            left.events.into_iter().map(|(_, event)| event).collect()
        };
        assert!(all.without_flush(all.flushes()).is_none());
        (0..all.flushes()).map(left).collect()
    }

    #[test]
    fn each_invalidation_is_left_out_once() {
        use Operation::{DsbIsh, SfenceInvalIr, SfenceWInval, Vae2is, Vmalls12e1is};
        let arm =
            [DsbIsh, Vmalls12e1is, Vae2is].map(|operation| Event::Maintenance { operation, operand: 0 });
        assert_eq!(without(Mechanism::Stage2, &arm), [[arm[0], arm[2]]]);
        let (invept, other) = (Event::Invept { kind: 2, eptp: 0 }, Event::Invept { kind: 1, eptp: 0x5e });
        let load = |tag| Event::LoadTagged { root: 0x1000, tag };
        let intel =
            [load(1), invept, Event::Enter, load(2), Event::Invvpid { kind: 2, vpid: 0, linear: 0 }, other];
        assert_eq!(
            without(Mechanism::Ept, &intel),
            [[&intel[..1], &intel[2..]].concat(), intel[..5].to_vec()]
        );
        let fence = Event::Fence { kind: FenceKind::HinvalGvma, address: Some(0x2000_0000), vmid: Some(1) };
        let remote = Event::RemoteFence { harts: 2, vmid: Some(1), start: 0x8000_0000, size: 0x1000 };
        let around =
            [SfenceWInval, SfenceInvalIr].map(|operation| Event::Maintenance { operation, operand: 0 });
        let riscv = [Event::Load { root: 8 << 60 | 1 << 44 }, around[0], fence, around[1], remote];
        assert_eq!(
            without(Mechanism::Gstage, &riscv),
            [[&riscv[..2], &riscv[3..]].concat(), riscv[..4].to_vec()]
        );
        let run = |tlb_control| Event::Vmrun { tlb_control };
        let elsewhere = Event::LoadTagged { root: 0x2000, tag: 3 };
        let amd = [load(1), run(0), run(3), load(2), run(0), load(2), elsewhere, run(1)];
        let left = without(Mechanism::Npt, &amd);
        assert_eq!(left.len(), 3);
        assert_eq!((left[0][2], left[0].len()), (run(0), 8));
        assert_eq!(left[1], [&amd[..3], &amd[4..]].concat());
        assert_eq!((left[2][7], left[2].len()), (run(0), 8));
    }
}
