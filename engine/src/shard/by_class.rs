//! An index from size class to members, to find one of the largest at once.

use crate::buf::{CLASSES, class_bytes};

const NOWHERE: u8 = u8::MAX;

#[derive(Clone, Copy, Debug)]
struct Place {
    class: u8,
    index: u32,
}

/// Members (dense small numbers) filed under a size class each, or under none.
#[derive(Debug, Default)]
pub(super) struct ByClass {
    lists: [Vec<u32>; CLASSES],
    places: Vec<Place>,
    bytes: usize,
}

impl ByClass {
    /// Files `member` under `class`, or nowhere.
    pub(super) fn set(&mut self, member: u32, class: Option<usize>) {
        let slot = member as usize;
        if self.places.len() <= slot {
            self.places.resize(slot + 1, Place { class: NOWHERE, index: 0 });
        }
        let class = class.map_or(NOWHERE, |class| u8::try_from(class).expect("there are fewer than 256 size classes"));
        if self.places[slot].class == class {
            return;
        }
        self.remove(self.places[slot]);
        if class == NOWHERE {
            self.places[slot].class = NOWHERE;
            return;
        }
        self.bytes += class_bytes(class.into());
        let list = &mut self.lists[usize::from(class)];
        let index = u32::try_from(list.len()).expect("members are numbered by u32");
        list.push(member);
        self.places[slot] = Place { class, index };
    }

    fn remove(&mut self, place: Place) {
        if place.class == NOWHERE {
            return;
        }
        self.bytes -= class_bytes(place.class.into());
        let list = &mut self.lists[usize::from(place.class)];
        list.swap_remove(place.index as usize);
        if let Some(&moved) = list.get(place.index as usize) {
            self.places[moved as usize].index = place.index;
        }
    }

    /// Bytes of all members together.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// A member of the largest class that has any: as a rule the one that has been there for longest.
    pub(super) fn largest(&self) -> Option<u32> {
        self.lists.iter().rev().find_map(|list| list.first().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_move_between_classes() {
        let mut index = ByClass::default();
        for member in 0..5 {
            index.set(member, Some(member as usize % 3));
        }
        assert_eq!(index.largest(), Some(2));
        assert_eq!(index.bytes(), 2 * class_bytes(0) + 2 * class_bytes(1) + class_bytes(2));
        index.set(2, Some(0));
        index.set(1, Some(0));
        assert_eq!(index.largest(), Some(4));
        for member in [0, 1, 4] {
            index.set(member, None);
        }
        index.set(4, None);
        let one = index.largest().expect("2 and 3 are left");
        index.set(one, None);
        assert_eq!(index.largest(), Some(5 - one));
        index.set(5 - one, None);
        assert_eq!((index.largest(), index.bytes()), (None, 0));
    }
}
