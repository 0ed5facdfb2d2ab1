//! The protocol from outside: round trips, damage, the published vectors and the corpus of the fuzz targets.

mod damage;
mod messages;
mod round_trip;
mod vectors;
