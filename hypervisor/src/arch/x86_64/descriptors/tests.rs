use super::*;

#[test]
fn cpus_are_told_apart_by_their_task_registers() {
    for cpu in 0..slat_hv_protocol::CPUS_MAX {
        let selector = task_selector(cpu);
        assert_eq!(cpu_of(selector), cpu);
        assert!(usize::from(selector) + 16 <= 8 * GDT_ENTRIES);
        assert_eq!(cpu_of(selector | 3), cpu, "whatever the privilege level in it");
    }
    assert_eq!(cpu_of(0), 0);
}

#[test]
fn a_task_descriptor_holds_the_address_in_pieces() {
    // Limit 15:0, base 23:0, type and P, base 31:24, base 63:32.
    assert_eq!(task_descriptor(0x1122_3344_5566_7788), [0x5500_8966_7788_0067, 0x1122_3344]);
}

#[test]
fn a_task_has_its_stacks_where_the_cpu_looks() {
    let words = task(0x1_2345_6780, 0x2_0000_1000);
    // IST1 at byte 36, IST2 at 44, the offset of the bitmap at 102.
    assert_eq!((words[9], words[10], words[11], words[12]), (0x2345_6780, 1, 0x1000, 2));
    assert_eq!(words[25] >> 16, 104);
    assert_eq!(words.iter().filter(|word| **word != 0).count(), 5);
}

#[test]
fn a_gate_holds_the_handler_in_pieces() {
    assert_eq!(gate(0x1122_3344_5566_7788, Stack::Exception), [0x5566_8e01_0008_7788, 0x1122_3344]);
    assert_eq!(gate(0, Stack::Nmi)[0] >> 32 & 7, 2);
}
