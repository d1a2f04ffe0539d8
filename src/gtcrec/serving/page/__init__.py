"""Pages to look at a served run with: users, items, what scores are made of, a map, trainings, the experiment."""
