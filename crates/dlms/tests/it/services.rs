//! Every service in every form over every link, on a line without faults.
