// SPDX-License-Identifier: MIT OR Apache-2.0
//! Places in lists: longer than a number of 32 bits, or than their memory.

use super::*;

/// Memory of which nothing is kept.
struct Boundless;

impl Region for Boundless {
    fn check(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn copy_from(&self, _: u32, _: &Self, _: u32, _: u32) -> Result<(), CopyFault> {
        Ok(())
    }

    fn write(&self, _at: u32, _bytes: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn read(&self, _at: u32, _bytes: &mut [u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn update(&self, _change: AtomicChange) -> Result<u64, Fault> {
        Ok(0)
    }
}

/// Which elements of lists were asked for.
#[derive(Default)]
struct Asked(Cell<u32>);

impl LocalMemory for Asked {
    type Region = Boundless;

    fn local(&self, _sge: Sge, _write: bool) -> Result<Boundless, AccessError> {
        self.0.set(self.0.get() + 1);
        Ok(Boundless)
    }
}

#[test]
fn a_place_in_a_list_ends_where_a_number_of_32_bits_does() {
    let entries = entries(&[sge(0, u32::MAX), sge(0, 64)]);
    let sges = SgeList::of(&entries);
    for (at, length, fits) in [
        (u32::MAX - 8, 8, true),
        (u32::MAX - 4, 8, false),
        (u32::MAX, 1, false),
        (u32::MAX, 0, true),
    ] {
        let asked = Asked::default();
        let mut bytes = std::vec![0; length];
        let denied = (!fits).then_some(Denied::Access);
        let written = Cursor::new().write(&asked, sges, at, &bytes);
        assert_eq!(written.err(), denied, "{at}");
        let read = Cursor::new().read(&asked, sges, at, &mut bytes);
        assert_eq!(read.err(), denied, "{at}");
        if !fits {
            assert_eq!(asked.0.get(), 0, "nothing is copied of what is refused");
        }
    }
}

/// Memory of so many bytes, from the base on.
struct Small(u64);

impl LocalMemory for Small {
    type Region = Boundless;

    fn local(&self, sge: Sge, _write: bool) -> Result<Boundless, AccessError> {
        let fits = sge.addr + u64::from(sge.length) <= BASE + self.0;
        fits.then_some(Boundless).ok_or(AccessError)
    }
}

#[test]
fn a_receive_that_ends_beyond_its_memory_takes_what_fits() {
    let entries = entries(&[sge(0, 64)]);
    let sges = SgeList::of(&entries);
    let (memory, mut cursor) = (Small(40), Cursor::new());
    // By packets of 16 bytes, the third of which goes beyond the end.
    for (at, written) in [(0, Ok(())), (16, Ok(())), (32, Err(Denied::Access))] {
        assert_eq!(cursor.write(&memory, sges, at, &[0; 16]), written, "{at}");
    }
    assert_eq!(cursor.write(&memory, sges, 32, &[0; 8]), Ok(()));
}
