"""One network learns one task: recipe, views, guard, inspection, and the training itself."""
