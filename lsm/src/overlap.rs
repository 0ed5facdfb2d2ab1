//! Futures that are under way together, with their results in the order in which they were asked for.
//!
//! Whatever is under way is polled whenever anything has happened: the number of them is meant to be small.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// A future, until it has ended.
enum Step<F: Future> {
    UnderWay(Pin<Box<F>>),
    Ended(F::Output),
}

/// Drives the futures, at most `at_once` of them together, and hands each result to `take` in the order of the futures. The first
/// error ends it, no matter what later ones have come to: those that are under way are dropped.
pub(crate) async fn in_order<F, T, E>(
    futures: impl IntoIterator<Item = F>,
    at_once: usize,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<(), E>
where
    F: Future<Output = Result<T, E>>,
{
    assert!(at_once > 0, "nothing would ever start");
    let mut futures = futures.into_iter();
    let mut steps: VecDeque<Step<F>> = VecDeque::with_capacity(at_once);
    poll_fn(|context| {
        loop {
            let room = at_once - steps.len();
            steps.extend(futures.by_ref().take(room).map(|future| Step::UnderWay(Box::pin(future))));
            if steps.is_empty() {
                return Poll::Ready(Ok(()));
            }
            for step in &mut steps {
                if let Step::UnderWay(future) = step
                    && let Poll::Ready(result) = future.as_mut().poll(context)
                {
                    *step = Step::Ended(result);
                }
            }
            if let Some(Step::UnderWay(_)) = steps.front() {
                return Poll::Pending;
            }
            while let Some(Step::Ended(_)) = steps.front() {
                let Some(Step::Ended(result)) = steps.pop_front() else { unreachable!("it was in front") };
                if let Err(error) = result.and_then(&mut take) {
                    return Poll::Ready(Err(error));
                }
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::mem_disk::run::{block_on, poll_once};

    /// Ends when `allowed` says so; counts those that have started and not ended.
    async fn work(
        number: usize,
        allowed: &RefCell<Vec<bool>>,
        running: &Cell<usize>,
    ) -> Result<usize, usize> {
        running.set(running.get() + 1);
        poll_fn(|_| if allowed.borrow()[number] { Poll::Ready(()) } else { Poll::Pending }).await;
        running.set(running.get() - 1);
        if number % 10 == 7 { Err(number) } else { Ok(number) }
    }

    #[test]
    fn results_come_in_order_whatever_the_order_of_ends() {
        let (allowed, running) = (RefCell::new(vec![false; 7]), Cell::new(0));
        let mut taken = Vec::new();
        let mut all = Box::pin(in_order((0..7).map(|n| work(n, &allowed, &running)), 3, |n| {
            taken.push(n);
            Ok(())
        }));
        let mut ended = None;
        for (end, together) in [(2, 2), (1, 1), (0, 3), (5, 2), (3, 2), (6, 1)] {
            assert!(poll_once(all.as_mut()).is_none());
            allowed.borrow_mut()[end] = true;
            assert!(poll_once(all.as_mut()).is_none());
            assert_eq!(running.get(), together, "after {end}");
        }
        allowed.borrow_mut()[4] = true;
        ended = ended.or(poll_once(all.as_mut()));
        assert_eq!(ended, Some(Ok(())));
        drop(all);
        assert_eq!(taken, [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        let (allowed, running) = (RefCell::new(vec![true; 40]), Cell::new(0));
        let mut taken = Vec::new();
        let ended = block_on(in_order((0..40).map(|n| work(n, &allowed, &running)), 16, |n| {
            taken.push(n);
            Ok(())
        }));
        assert_eq!(ended, Err(7));
        assert_eq!(taken, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(block_on(in_order(Vec::<std::future::Ready<Result<(), ()>>>::new(), 1, Ok)), Ok(()));
    }
}
