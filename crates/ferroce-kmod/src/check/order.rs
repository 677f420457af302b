// SPDX-License-Identifier: MIT OR Apache-2.0
//! In which order modules that need each other are to be loaded.

/// An order in which each comes after those that it needs, as far as there is
/// one, and those that are part of a circle.
pub struct Order {
    pub order: Vec<usize>,
    pub circular: Vec<bool>,
}

/// Orders modules by the list of those that each needs; where there is a
/// choice, they stay as they are.
pub fn order(needs: &[Vec<usize>]) -> Order {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    let mut state = vec![State::New; needs.len()];
    let mut circular = vec![false; needs.len()];
    let mut order = Vec::with_capacity(needs.len());
    for first in 0..needs.len() {
        if state[first] != State::New {
            continue;
        }
        // A module, and how many of its needs were seen to: no recursion, as
        // the depth is up to the input.
        let mut path = vec![(first, 0)];
        state[first] = State::Open;
        while let Some((module, seen)) = path.last_mut() {
            let Some(&need) = needs[*module].get(*seen) else {
                state[*module] = State::Done;
                order.push(*module);
                path.pop();
                continue;
            };
            *seen += 1;
            match state[need] {
                State::New => {
                    state[need] = State::Open;
                    path.push((need, 0));
                }
                State::Open => {
                    let circle = path.iter().rev().map(|(module, _)| *module);
                    for module in circle {
                        circular[module] = true;
                        if module == need {
                            break;
                        }
                    }
                }
                State::Done => {}
            }
        }
    }
    Order { order, circular }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_come_first() {
        let Order { order, circular } = order(&[vec![1, 2], vec![2], vec![], vec![0]]);
        assert_eq!(order, [2, 1, 0, 3]);
        assert_eq!(circular, [false; 4]);
    }

    #[test]
    fn a_circle_is_seen_and_the_rest_is_not_in_it() {
        let Order { order, circular } = order(&[vec![1], vec![2], vec![1], vec![]]);
        assert_eq!(order.len(), 4);
        assert_eq!(circular, [false, true, true, false]);
    }
}
